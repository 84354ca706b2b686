/**
 * Fail points: named places where a test makes a process of ours fail. Host only.
 *
 * `CAISSON_FAILPOINTS` arms them: `name=action` pairs with commas between, or `@/path` of a file with such pairs, which
 * is read again at every point, so that a test can arm another one in a process that runs. Without the variable a point
 * costs one comparison. Action `error` throws at the point, `kill` is SIGKILL and `stop` SIGSTOP to the process itself:
 * a test then kills something else at exactly this step and sends SIGCONT.
 */
import fs from "node:fs";
import { SandboxError } from "./errors.ts";

/** Every fail point, in the order in which a container's life passes them, with what has happened when it is reached. */
export const failPoints = {
  "start.bound": "`start` has bound the shim's socket",
  "start.spawned": "`start` has started the server process",
  "server.listening": "the server accepts connections",
  "workspace.made": "the run directory and its journal exist",
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
export type FailPoint = keyof typeof failPoints;
export type FailAction = "error" | "kill" | "stop";

const setting: string | undefined = process.env.CAISSON_FAILPOINTS;

/** Does what is armed for `name`; nothing without CAISSON_FAILPOINTS. @throws ERR_INTERNAL for the action `error`. */
export function failPoint(name: FailPoint): void {
  if (setting !== undefined) act(name, armedAction(setting, name));
}

/** What `text`, the value of CAISSON_FAILPOINTS, arms for `name`. An unreadable file and unknown words arm nothing. */
export function armedAction(text: string, name: FailPoint): FailAction | undefined {
  for (const pair of (text.startsWith("@") ? readQuietly(text.slice(1)) : text).split(",")) {
    const at = pair.indexOf("=");
    const action = pair.slice(at + 1).trim();
    if (at < 0 || pair.slice(0, at).trim() !== name) continue;
    if (action === "error" || action === "kill" || action === "stop") return action;
  }
  return undefined;
}

function act(name: FailPoint, action: FailAction | undefined): void {
  if (action === "error") throw new SandboxError("ERR_INTERNAL", `the fail point ${name} is armed`);
  if (action !== undefined) process.kill(process.pid, action === "kill" ? "SIGKILL" : "SIGSTOP");
}

function readQuietly(path: string): string {
  try {
    return fs.readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
