/**
 * Life of a sandbox.
 *
 *   created ──boot──> booting ──ready──> running ──stop──> stopping ──stopped──> stopped
 *      │                 └──fail──> failed <──fail──┘          ^
 *      └──stop───────────────────────┴──stop──────────────────-┘
 */
export type SandboxState = "created" | "booting" | "running" | "failed" | "stopping" | "stopped";
export type SandboxEvent = "boot" | "ready" | "fail" | "stop" | "stopped";

/** Which state follows which event; what is absent is refused. */
export const sandboxTransitions = {
  created: { boot: "booting", fail: "failed", stop: "stopping" },
  booting: { ready: "running", fail: "failed" },
  running: { fail: "failed", stop: "stopping" },
  failed: { stop: "stopping", fail: "failed" },
  stopping: { stopped: "stopped" },
  stopped: {},
} as const satisfies Record<SandboxState, Partial<Record<SandboxEvent, SandboxState>>>;

/** The state after `event`, or undefined when `event` is not allowed in `state`. */
export function nextSandboxState(state: SandboxState, event: SandboxEvent): SandboxState | undefined {
  const row: Partial<Record<SandboxEvent, SandboxState>> = sandboxTransitions[state];
  return row[event];
}
