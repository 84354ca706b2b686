/** The states of a task as containerd knows them, and which call is refused in which, in the words of runc's shim. */
import { SandboxError } from "../base/errors.ts";
import type { Container } from "../runtime/container.ts";
import type { ContainerProcess } from "../runtime/container-process.ts";

export type TaskStatus = "created" | "running" | "stopped" | "paused";

export function taskStatus(process: ContainerProcess, paused: boolean): TaskStatus {
  switch (process.state) {
    case "created":
    case "starting":
      return "created";
    case "running":
      return paused ? "paused" : "running";
    case "exited":
    case "deleting":
    case "deleted":
      return "stopped";
  }
}

/** The calls on a whole container that are valid in some of its states only. */
export type GuardedCall = "exec" | "start exec" | "pause" | "resume" | "update";

const allowed: Readonly<Record<GuardedCall, readonly TaskStatus[]>> = {
  exec: ["running"],
  "start exec": ["running"],
  pause: ["running"],
  resume: ["paused"],
  update: ["created", "running", "paused"],
};

const refusal: Readonly<Record<GuardedCall, (status: TaskStatus) => string>> = {
  exec: (status) => `cannot exec in a ${status} state`,
  "start exec": (status) => `cannot exec in a ${status} container`,
  pause: (status) => `cannot pause a ${status} container`,
  resume: (status) => `cannot resume a ${status} container`,
  update: (status) => `cannot update a ${status} container`,
};

/** @throws ERR_STATE when `call` is not valid now. */
export function assertAllowed(call: GuardedCall, container: Container): void {
  const status = taskStatus(container.init, container.paused);
  if (allowed[call].includes(status)) return;
  throw new SandboxError("ERR_STATE", `${refusal[call](status)}: ${container.id}`);
}
