/**
 * Every deadline of the host side in one table, in milliseconds. `CAISSON_TIMEOUT_SCALE` (a factor, default 1)
 * stretches all of them on slow machines; the lab sets it.
 */
const base = {
  /** One step of a machine that is started only to be measured. */
  boot: 60_000,
  /** QMP greeting and qmp_capabilities. */
  qmpHandshake: 10_000,
  qmpCommand: 10_000,
  /** virtiofsd or the vsock backend: exec to a listening socket. */
  daemonReady: 10_000,
  /** Connecting one vsock stream. */
  dial: 5_000,
  agentCall: 30_000,
  /** A signal to a process in the guest; then, if it was SIGKILL, the machine is killed. CRI waits 10 s for a kill. */
  guestSignal: 7_000,
  /** Forgetting an ended process in the guest; with the draining of its output below the 10 s that CRI waits. */
  guestDelete: 5_000,
  /** The guest's report of a call that it has answered, before its machine is ended. Only where calls are traced. */
  guestReport: 1_000,
  /** Graceful power-off of the guest before QEMU is killed. */
  guestShutdown: 2_000,
  /** From a loss (a connection, a helper) to the exit that explains it. */
  cause: 300,
  /** TERM to KILL of a child process. */
  childStop: 2_000,
  /** How long an exit is kept back for the output that came before it; then, for a reader that does not read it. */
  exitOutput: 2_000,
  exitReader: 500,
  /** From the break of an output stream to one that stands in its place. */
  stdioRedial: 5_000,
  /** Without progress of a stdio stream after exit, before it is cut at Delete. */
  stdioDrain: 5_000,
  /** All draining of a process's output after its exit, however it moves: the guest decides how much comes. */
  stdioDrainAll: 30_000,
  /** Start of a logging binary to its ready sign. */
  loggerReady: 10_000,
  /** A logging binary's end of file to its own end; containerd's own shim gives 12 s in all. */
  loggerStop: 6_000,
  /** One attempt to forward an event to containerd. */
  eventForward: 5_000,
  /** `shim` connecting to the socket of a sandbox's shim; then a call that the shim answers from memory. */
  controlConnect: 2_000,
  controlCall: 5_000,
  /** The tools of `shim exec` to be usable in the guest: 2 MB over a slow vsock, and some 400 links. */
  consoleTools: 30_000,
  /** One step of an undo stack. */
  undoStep: 10_000,
  /** The whole teardown of a sandbox. */
  teardown: 15_000,
} as const;

export type TimeoutName = keyof typeof base;

/** The deadline `name` in milliseconds, scaled by CAISSON_TIMEOUT_SCALE. */
export function timeoutMs(name: TimeoutName): number {
  return scaledMs(base[name]);
}

/** A deadline that is set elsewhere (the configuration), scaled in the same way. */
export function scaledMs(milliseconds: number): number {
  const scale = Number(process.env.CAISSON_TIMEOUT_SCALE ?? "1");
  return milliseconds * (Number.isFinite(scale) && scale > 0 ? scale : 1);
}
