/**
 * What a child does before its program runs, from the process of a spec: numbers, masks and paths for native/become.c, and
 * the words for what it could not do.
 */
import * as sys from "sys";
import type { SandboxError } from "../../../src/base/errors.ts";
import { capabilitySets } from "./capability-sets.ts";
import { candidates, environmentValue, notFound, reasonText, startFailure } from "./executable.ts";
import { ioPriorityValue, limitNumbers, personalityNumber, schedulerFields } from "./limits.ts";
import type { LinuxSpec, ProcessSpec } from "./oci-spec.ts";
import type { SeccompProgram } from "./seccomp.ts";

/** The process's ends; undefined is the container's /dev/null. All above 2. */
export interface ChildStdio {
  readonly stdin: number | undefined;
  readonly stdout: number | undefined;
  readonly stderr: number | undefined;
}

/** A user's home directory by a container's /etc/passwd. */
export interface Home {
  /** Which state of the file says so; another one after each change of it. */
  readonly passwd: string;
  readonly directory: string;
}

export interface ProcessPlan {
  readonly process: ProcessSpec;
  readonly personality: LinuxSpec["personality"];
  readonly seccomp: SeccompProgram | undefined;
  /** What an earlier process of this user has found. */
  readonly home?: Home | undefined;
  /** Of a process that the spawner makes. */
  readonly oomScoreAdj?: number;
}

/** Where and why a child stopped: stop_text() of native/become.c. */
export interface Stop {
  readonly step: string;
  readonly index: number;
  readonly errno: string;
  /** The system call with the kernel's words. */
  readonly cause: string;
}

const DEFAULT_UMASK = 0o022;
/** runc's limit, and its words below. The kernel takes 2^32-1 for "as it is": such a process would stay root. */
const MAX_ID = 2_147_483_647;

/** @throws ERR_SPEC or ERR_START_PROCESS for what the kernel need not be asked. */
export function nativePlan(plan: ProcessPlan): sys.ProcessPlan {
  const { process, seccomp, home, oomScoreAdj = 0 } = plan;
  const { args, env, cwd, user, rlimits, consoleSize } = process;
  const { uid, gid, additionalGids, umask = DEFAULT_UMASK } = user;
  if ([uid, gid, ...additionalGids].some((id) => id > MAX_ID)) {
    const cause = new Error(`uids and gids must be in range 0-${MAX_ID}`);
    throw startFailure(cannotBecome(user), cause);
  }
  const [command] = args;
  if (command === undefined) throw startFailure("process.args is empty: there is nothing to execute");
  return {
    uid,
    gid,
    umask,
    groups: additionalGids,
    ...capabilitySets(process.capabilities),
    limits: limitNumbers(rlimits),
    ioPriority: ioPriorityValue(process.ioPriority),
    scheduler: schedulerFields(process.scheduler),
    personality: personalityNumber(plan.personality),
    noNewPrivileges: process.noNewPrivileges,
    filter: seccomp?.code,
    filterFlags: seccomp?.flags ?? 0,
    needsHome: environmentValue(env, "HOME") === undefined,
    passwd: home?.passwd ?? "",
    home: home?.directory ?? "",
    terminal: process.terminal,
    rows: consoleSize?.height ?? 0,
    columns: consoleSize?.width ?? 0,
    oomScore: oomScoreAdj,
    cwd: cwd === "" ? "/" : cwd,
    args,
    env,
    candidates: candidates(command, environmentValue(env, "PATH")),
  };
}

/**
 * Makes the calling process the plan's. Preconditions: inside the container's namespaces and root, as root.
 * @param tools a program that stands in for commands that PATH does not have, or -1.
 * @throws ERR_START_PROCESS with the reason.
 */
export function becomeProcess(
  plan: ProcessPlan,
  stdio: ChildStdio | { readonly terminal: number },
  tools = -1,
): never {
  const [stdin, stdout, stderr] =
    "terminal" in stdio
      ? [stdio.terminal, stdio.terminal, stdio.terminal]
      : [stdio.stdin ?? -1, stdio.stdout ?? -1, stdio.stderr ?? -1];
  throw stopped(plan, JSON.parse(sys.becomeProcess(nativePlan(plan), stdin, stdout, stderr, tools)));
}

export const NO_MULTIPLEXER = "/dev/pts/ptmx of the container is not a pseudo-terminal multiplexer";
export const CANNOT_OPEN_TERMINAL =
  "cannot open a terminal in the container (is devpts mounted at /dev/pts?)";
const cannotBecome = ({ uid, gid }: ProcessSpec["user"]) => `cannot become user ${uid}, group ${gid}`;

/** Words for a step; where there are none the cause says it. */
const WORDS: Readonly<Record<string, (plan: ProcessPlan, stop: Stop) => string>> = {
  limit({ process }, { index }) {
    const { type, soft, hard } = process.rlimits[index] ?? { type: "a limit", soft: 0n, hard: 0n };
    return `cannot set ${type} to ${soft} (soft) and ${hard} (hard)`;
  },
  ioPriority: ({ process }) => `cannot set the IO priority ${process.ioPriority?.class}`,
  scheduler: ({ process }) => `cannot set the scheduling policy ${process.scheduler?.policy}`,
  user: ({ process }) => cannotBecome(process.user),
  capabilities: () => "cannot set the capabilities of the process",
  seccomp: () => "cannot install the seccomp filter",
  oomScore: ({ oomScoreAdj }) => `cannot set oom_score_adj to ${oomScoreAdj}`,
  terminal: () => CANNOT_OPEN_TERMINAL,
};

/** Steps of which the words say everything. */
const WHOLE: Readonly<Record<string, (plan: ProcessPlan, stop: Stop) => string>> = {
  null: () => "/dev/null of the container is not the null device",
  multiplexer: () => NO_MULTIPLEXER,
  cwd: ({ process }, { errno }) =>
    `chdir to cwd ("${process.cwd}") set in config.json failed: ${reasonText(errno)}`,
  find: ({ process }, { errno }) => notFound(process.args[0] ?? "", errno),
  execute: ({ process }, { errno, index }) => {
    const path = candidates(process.args[0] ?? "", environmentValue(process.env, "PATH"))[index];
    return `exec ${path}: ${reasonText(errno)}`;
  },
};

/** The error for a child that stopped. */
export function stopped(plan: ProcessPlan, stop: Stop): SandboxError {
  const whole = WHOLE[stop.step];
  if (whole !== undefined) return startFailure(whole(plan, stop));
  const words = WORDS[stop.step];
  return words === undefined
    ? startFailure(stop.cause)
    : startFailure(words(plan, stop), new Error(stop.cause));
}

/** Sets the OOM score of the calling process; needs the agent's /proc, so before the root is entered. */
export function setOomScore(adjustment: number): void {
  try {
    sys.setOomScore(adjustment);
  } catch (error) {
    throw startFailure(`cannot set oom_score_adj to ${adjustment}`, error);
  }
}
