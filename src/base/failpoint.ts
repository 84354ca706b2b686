/**
 * Fail points: named places where a test makes a process of ours fail. Host only.
 *
 * `CAISSON_FAILPOINTS` arms them: `name=action` pairs with commas between, or `@/path` of a file with such pairs, which
 * is read again at every point, so that a test can arm another one in a process that runs. Without the variable a point
 * costs one comparison. Action `error` throws at the point, `kill` is SIGKILL and `stop` SIGSTOP to the process itself:
 * a test then kills something else at exactly this step and sends SIGCONT. `error#3` strikes only when this process
 * passes the point for the third time.
 *
 * Besides the named ones there is a point after every acquire: `acquire.NAME` for the undo step NAME (undo.ts), where
 * "mount" stands for "mount /run/x" as well.
 */
import fs from "node:fs";
import { SandboxError } from "./errors.ts";
import { observeAcquires } from "./undo.ts";

/** Every fail point, in the order in which a container's life passes them, with what has happened when it is reached. */
export const failPoints = {
  "start.bound": "`start` has bound the shim's socket",
  "start.spawned": "`start` has started the server process",
  "server.listening": "the server accepts connections",
  "workspace.made": "the run directory and its journal exist",
  "cgroup.journalled": "the sandbox's cgroups are in the journal and not made",
  "cgroup.entered": "the shim is in the sandbox's cgroups",
  "mount.journalled": "a mount of the shared tree is in the journal and not made",
  "workspace.shared": "the shared tree is a mount of its own",
  "virtiofsd.spawned": "virtiofsd was forked and is not in the journal by its pid",
  "vsock.spawned": "the vsock backend was forked and is not in the journal by its pid",
  "vsock.ready": "the vsock backend listens",
  "network.journalled": "the pod's wiring is in the journal, nothing is wired",
  "network.wired": "the pod's network is wired",
  "qemu.spawned": "QEMU was forked and is not in the journal by its pid",
  "boot.launched": "QEMU runs and is in the journal",
  "boot.hello": "the guest's agent has said hello",
  "boot.sentinel": "the sentinel is mounted",
  "boot.ready": "the guest is set up",
  "container.directory": "the container's directory in the shared tree exists",
  "container.mounted": "the container's mounts are made",
  "container.created": "the guest has created the container",
  "start.attached": "the streams of the process are connected",
  "start.started": "the guest has started the process",
  "exec.created": "the guest has created an additional process",
  "stdio.output": "a piece of output came from the guest and is not written",
  "stdio.input": "a piece of input was read and is not sent",
  "exit.heard": "the guest has told the end of a process",
  "delete.drained": "the output of the ended process is delivered",
  "delete.removed": "the guest has forgotten the process",
  "release.container": "the container's mounts are gone, its directory is about to go",
  "stop.machine": "the machine is about to be ended",
  "stop.workspace": "the machine is gone, the run directory is about to go",
  "shutdown.stopped": "everything is undone, the last events and answers are to be sent",
  "recover.begin": "`delete` or `gc` is about to undo a journal",
  "recover.killed": "`delete` or `gc` has killed the processes of a journal",
  "recover.undone": "`delete` or `gc` has undone the journal, the run directory is still there",
} as const;
export type NamedPoint = keyof typeof failPoints;
export type FailPoint = NamedPoint | `acquire.${string}`;
export type FailAction = "error" | "kill" | "stop";
/** An action, at every passage or at the one of that number. */
export type ArmedAction = FailAction | `${FailAction}#${number}`;

const setting: string | undefined = process.env.CAISSON_FAILPOINTS;
/** How often each point that is armed was passed. */
const passages = new Map<string, number>();

if (setting !== undefined) observeAcquires((step) => act(setting, `acquire.${step}`));

/** Does what is armed for `name`; nothing without CAISSON_FAILPOINTS. @throws ERR_INTERNAL for the action `error`. */
export function failPoint(name: NamedPoint): void {
  if (setting !== undefined) act(setting, name);
}

export interface Armed {
  readonly action: FailAction;
  /** The point as the text has it. */
  readonly point: string;
  /** The only passage that it strikes at, counted from 1; undefined for all. */
  readonly passage: number | undefined;
}

/** What `text`, the value of CAISSON_FAILPOINTS, arms for `name`. An unreadable file and unknown words arm nothing. */
export function armedAction(text: string, name: string): Armed | undefined {
  for (const pair of (text.startsWith("@") ? readQuietly(text.slice(1)) : text).split(",")) {
    const [, point = "", action, passage] =
      /^\s*(.+?)\s*=\s*(error|kill|stop)(?:#(\d+))?\s*$/.exec(pair) ?? [];
    if (action === undefined) continue;
    if (name !== point && !(point.startsWith("acquire.") && name.startsWith(`${point} `))) continue;
    return {
      action: action as FailAction,
      point,
      passage: passage === undefined ? undefined : Number(passage),
    };
  }
  return undefined;
}

function act(text: string, name: string): void {
  const armed = armedAction(text, name);
  if (armed === undefined) return;
  const passage = (passages.get(armed.point) ?? 0) + 1;
  passages.set(armed.point, passage);
  if (armed.passage !== undefined && passage !== armed.passage) return;
  if (armed.action === "error") throw new SandboxError("ERR_INTERNAL", `the fail point ${name} is armed`);
  process.kill(process.pid, armed.action === "kill" ? "SIGKILL" : "SIGSTOP");
}

function readQuietly(path: string): string {
  try {
    return fs.readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
