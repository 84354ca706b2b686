/**
 * Life of a process (a container's init or an exec).
 *
 *   created ──start──> starting ──started──> running ──exit──> exited ──delete──> deleting ──deleted──> deleted
 *      │                  └──failed──> exited                    ^                   │
 *      └──exit (guest lost)────────────────────────────────────> ┘ <──delete failed──┘
 */
export type ProcessState = "created" | "starting" | "running" | "exited" | "deleting" | "deleted";
export type ProcessEvent = "start" | "started" | "exit" | "delete" | "deleteFailed" | "deleted";

/** Which state follows which event; what is absent is refused. */
export const processTransitions = {
  created: { start: "starting", exit: "exited", delete: "deleting" },
  starting: { started: "running", exit: "exited" },
  running: { exit: "exited" },
  exited: { delete: "deleting", started: "exited" },
  deleting: { deleteFailed: "exited", deleted: "deleted" },
  deleted: {},
} as const satisfies Record<ProcessState, Partial<Record<ProcessEvent, ProcessState>>>;

/** The state after `event`, or undefined when `event` is not allowed in `state`. */
export function nextProcessState(state: ProcessState, event: ProcessEvent): ProcessState | undefined {
  const row: Partial<Record<ProcessEvent, ProcessState>> = processTransitions[state];
  return row[event];
}
