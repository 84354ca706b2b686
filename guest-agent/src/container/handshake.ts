/**
 * What the agent and a child on its way to execve tell each other, over a socket pair that is close-on-exec: the
 * kernel's closing of it at execve is the message "the program runs now".
 *
 *   child → agent   { type: "ready" }                     set-up is complete (with the pty master, if any)
 *   child → agent   { type: "home", passwd, directory }   what it found, for the next exec of its user
 *   child → agent   { type: "failed", code, message }     and the child exits
 *   child → agent   { type: "stopped", step, index, errno, cause }  the same of a child that is native code (become.c)
 *   agent → child   one byte                              go on to execve
 *
 * One packet per message (SOCK_SEQPACKET).
 */
import * as sys from "sys";
import { describeError, type ErrorCode, errorCatalogue, SandboxError } from "../../../src/base/errors.ts";
import type { EventLoop, Watch } from "../event-loop.ts";
import { AF_UNIX, EPOLLIN, SOCK_SEQPACKET, sysCode } from "../linux.ts";
import { aboveStdio } from "./descriptors.ts";
import type { Home, Stop } from "./process-plan.ts";

/** Largest message; the text of an error is cut so that it fits: JSON makes six bytes of a control character. */
const MESSAGE_LIMIT = 32_768;
const TEXT_LIMIT = 4_096;

/** `closed`: the other side has exec'ed, or is gone. */
export type Message =
  | { readonly type: "ready"; readonly terminal: number | undefined }
  | { readonly type: "home"; readonly home: Home }
  | { readonly type: "failed"; readonly error: SandboxError }
  | { readonly type: "stopped"; readonly stop: Stop }
  | { readonly type: "closed" };

/** The two ends: [agent's, child's]. Each side closes the other's after the clone. */
export function openHandshake(): readonly [number, number] {
  const [agent, child] = sys.socketpair(AF_UNIX, SOCK_SEQPACKET);
  return [aboveStdio(agent), aboveStdio(child)];
}

/** The child's end. All calls block. */
export class ChildChannel {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  get fd(): number {
    return this.#fd;
  }

  ready(terminal: number | undefined): void {
    this.#send({ type: "ready" }, terminal === undefined ? [] : [terminal]);
  }

  /** Returns when the agent says so; ends the process when the agent is gone. */
  awaitStart(): void {
    if (sys.read(this.#fd, new Uint8Array(1)) !== 1) sys.exit(1);
  }

  /** Reports the failure and ends the process. */
  fail(error: unknown): never {
    const code: ErrorCode = error instanceof SandboxError ? error.code : "ERR_START_PROCESS";
    try {
      this.#send({ type: "failed", code, message: describeError(error).slice(0, TEXT_LIMIT) }, []);
    } catch {
      // The agent sees the exit status only.
    }
    sys.exit(EXIT_FAILED);
  }

  #send(message: object, fds: readonly number[]): void {
    sys.sendFds(this.#fd, sys.encodeUtf8(JSON.stringify(message)), fds);
  }
}

/** Exit status of a child that could not become what it should: as a shell has it for a command it cannot run. */
const EXIT_FAILED = 127;

/** The agent's end. */
export class AgentChannel {
  readonly #loop: EventLoop;
  #fd: number | undefined;
  #watch: Watch | undefined;

  /** Owns `fd` from now on. */
  constructor(loop: EventLoop, fd: number) {
    this.#loop = loop;
    this.#fd = fd;
  }

  /**
   * The child's next message. One call at a time.
   * @throws ERR_DEADLINE after `limitMs`, naming `what`.
   */
  next(limitMs: number, what: string): Promise<Message> {
    const fd = this.#fd;
    if (fd === undefined) return Promise.resolve({ type: "closed" });
    return new Promise((resolve, reject) => {
      const timer = this.#loop.setTimer(limitMs, () => {
        this.#stopWatching();
        reject(new SandboxError("ERR_DEADLINE", `${what} took longer than ${limitMs} ms`));
      });
      this.#watch = this.#loop.watch(fd, EPOLLIN, () => {
        this.#stopWatching();
        this.#loop.clearTimer(timer);
        try {
          resolve(receive(fd));
        } catch (error) {
          reject(error);
        }
      });
    });
  }

  /** Lets the child go on. */
  start(): void {
    if (this.#fd === undefined) return;
    try {
      sys.sendFds(this.#fd, new Uint8Array([1]), []);
    } catch (error) {
      // The child died; next() says so.
      if (sysCode(error) !== "EPIPE") throw error;
    }
  }

  /** Idempotent. A child that waits for its start ends. */
  close(): void {
    this.#stopWatching();
    if (this.#fd !== undefined) sys.close(this.#fd);
    this.#fd = undefined;
  }

  #stopWatching(): void {
    this.#watch?.close();
    this.#watch = undefined;
  }
}

function receive(fd: number): Message {
  const buffer = new Uint8Array(MESSAGE_LIMIT);
  let length: number | undefined;
  let fds: readonly number[] = [];
  try {
    [length, ...fds] = sys.receiveFds(fd, buffer);
  } catch (error) {
    if (sysCode(error) !== "ECONNRESET") throw error;
  }
  if (length === undefined || length <= 0) return { type: "closed" };
  const message = asMessage(JSON.parse(sys.decodeUtf8(buffer, 0, length)), fds[0]);
  if (message.type !== "ready") for (const extra of fds) sys.close(extra);
  return message;
}

/** The child is our own program, but it had a container's files mounted: its words are checked all the same. */
function asMessage(value: unknown, terminal: number | undefined): Message {
  const { type, code, message, passwd, directory, step, index, errno, cause } = (
    typeof value === "object" && value !== null ? value : {}
  ) as Readonly<Record<string, unknown>>;
  if (type === "failed") {
    const text = typeof message === "string" ? message : "unknown failure";
    return { type, error: new SandboxError(isErrorCode(code) ? code : "ERR_INTERNAL", text) };
  }
  if (type === "home" && typeof passwd === "string" && typeof directory === "string") {
    return { type, home: { passwd, directory } };
  }
  if (type === "stopped") {
    const at = typeof index === "number" ? index : 0;
    return { type, stop: { step: `${step}`, index: at, errno: `${errno}`, cause: `${cause}` } };
  }
  return { type: "ready", terminal };
}

const isErrorCode = (code: unknown): code is ErrorCode =>
  typeof code === "string" && Object.hasOwn(errorCatalogue, code);
