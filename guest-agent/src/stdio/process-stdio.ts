/**
 * The parent's ends of a process's stdio: pipes, or one pty master. Exists from CreateContainer/CreateExec until
 * DeleteProcess; the descriptors may come later (a terminal is allocated inside the container).
 *
 * Streams (stdio/stream-server.ts) attach to an `InputEnd` or `OutputEnd`, one at a time per end, and detach when
 * their connection ends; the end stays and another stream may attach.
 */
import * as sys from "sys";
import type { EventLoop } from "../event-loop.ts";
import { F_DUPFD_CLOEXEC, F_GETFL, F_SETFL, O_NONBLOCK } from "../linux.ts";
import { currentTraceId } from "../tracing.ts";
import { InputEnd } from "./input-end.ts";
import { OutputEnd } from "./output-end.ts";

/** Which streams exist; of the others the process has /dev/null. A terminal has stdin and stdout only. */
export interface StdioLayout {
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

/** The agent's ends, made non-blocking and owned by the ProcessStdio once given. */
export type StdioFds =
  | { readonly terminal: number }
  | { readonly stdin?: number; readonly stdout?: number; readonly stderr?: number };

export class ProcessStdio {
  readonly layout: StdioLayout;
  /** Of the call that makes the process; empty for none. */
  readonly traceId = currentTraceId();
  readonly stdin: InputEnd | undefined;
  readonly stdout: OutputEnd | undefined;
  readonly stderr: OutputEnd | undefined;
  #terminal: number | undefined;
  #disposed = false;

  constructor(loop: EventLoop, layout: StdioLayout) {
    this.layout = layout;
    this.stdin = layout.stdin ? new InputEnd(loop) : undefined;
    this.stdout = layout.stdout ? new OutputEnd(loop) : undefined;
    this.stderr = layout.stderr && !layout.terminal ? new OutputEnd(loop) : undefined;
  }

  /** The pty master, for the window size; undefined without a terminal or before provide(). */
  get terminalFd(): number | undefined {
    return this.#terminal;
  }

  /** Hands over the descriptors, once. Those of streams that the layout does not have are closed. */
  provide(fds: StdioFds): void {
    const all = "terminal" in fds ? [fds.terminal] : [fds.stdin, fds.stdout, fds.stderr];
    if (this.#disposed) {
      for (const fd of all) if (fd !== undefined) sys.close(fd);
      return;
    }
    for (const fd of all) if (fd !== undefined) setNonBlocking(fd);
    if ("terminal" in fds) {
      this.#terminal = fds.terminal;
      // One open file serves both directions; each end owns a descriptor of its own so that epoll can watch both.
      this.stdin?.provide(duplicate(fds.terminal), true);
      this.stdout?.provide(duplicate(fds.terminal));
      return;
    }
    hand(this.stdin, fds.stdin);
    hand(this.stdout, fds.stdout);
    hand(this.stderr, fds.stderr);
  }

  /** Ends all streams and closes the descriptors. Idempotent. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.stdin?.dispose();
    this.stdout?.dispose();
    this.stderr?.dispose();
    if (this.#terminal !== undefined) sys.close(this.#terminal);
    this.#terminal = undefined;
  }
}

function hand(end: InputEnd | OutputEnd | undefined, fd: number | undefined): void {
  if (fd === undefined) return;
  if (end === undefined) sys.close(fd);
  else end.provide(fd, false);
}

function setNonBlocking(fd: number): void {
  sys.fcntl(fd, F_SETFL, sys.fcntl(fd, F_GETFL, 0) | O_NONBLOCK);
}

function duplicate(fd: number): number {
  return sys.fcntl(fd, F_DUPFD_CLOEXEC, 0);
}
