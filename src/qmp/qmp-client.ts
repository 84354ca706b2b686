/** A client of QEMU's machine protocol over any byte stream. The protocol itself is described in messages.ts. */
import type { ByteStream } from "../base/byte-stream.ts";
import { withDeadline } from "../base/deadline.ts";
import { type ErrorCode, SandboxError } from "../base/errors.ts";
import { type Log, silentLog } from "../base/log.ts";
import { timeoutMs } from "../base/timeouts.ts";
import type { QmpCommands, QmpEvents } from "./commands.ts";
import { EventHub } from "./event-hub.ts";
import {
  type JsonObject,
  MessageSplitter,
  parseMessage,
  type QmpEvent,
  type QmpVersion,
} from "./messages.ts";

/** Sends `bytes` with `fds` attached (SCM_RIGHTS) on the very socket that the client reads. */
export type SendWithFds = (bytes: Uint8Array, fds: readonly number[]) => Promise<void>;

export interface QmpInit {
  /** Connected to QEMU's monitor; the client owns it from then on. */
  readonly stream: ByteStream;
  /** Needed for commands that carry descriptors. */
  readonly sendWithFds?: SendWithFds;
  readonly log?: Log;
  /** Ends the handshake early. */
  readonly signal?: AbortSignal;
}

export interface ExecuteOptions {
  readonly signal?: AbortSignal;
  /** Milliseconds; default timeoutMs("qmpCommand"). */
  readonly timeoutMs?: number;
  /** Descriptors to send along (getfd, add-fd). They stay the caller's; QEMU gets copies. */
  readonly fds?: readonly number[];
}

interface Pending {
  readonly command: string;
  resolve(value: unknown): void;
  reject(error: SandboxError): void;
}

/** QMP error classes (qapi/error.json) to our codes; all others are ERR_HOST. */
const errorCodes: Readonly<Record<string, ErrorCode>> = {
  CommandNotFound: "ERR_UNSUPPORTED",
  DeviceNotFound: "ERR_NOT_FOUND",
  DeviceNotActive: "ERR_STATE",
};

/** One QMP connection after its handshake. Release it with close(). */
export class QmpClient {
  /** Resolves with the reason once the connection is over; never rejects. */
  readonly closed: Promise<SandboxError>;
  readonly #stream: ByteStream;
  readonly #sendWithFds: SendWithFds | undefined;
  readonly #log: Log;
  readonly #pending = new Map<number, Pending>();
  readonly #hub = new EventHub();
  #reportClosed: (reason: SandboxError) => void = () => undefined;
  #greeted: (version: QmpVersion) => void = () => undefined;
  #version: QmpVersion = { major: 0, minor: 0, micro: 0, package: "" };
  #lastId = 0;
  #failure: SandboxError | undefined;
  /** Writes go out one after the other: a descriptor must arrive with the bytes of its own command. */
  #writes: Promise<void> = Promise.resolve();

  private constructor(init: QmpInit) {
    this.#stream = init.stream;
    this.#sendWithFds = init.sendWithFds;
    this.#log = init.log ?? silentLog;
    this.closed = new Promise((resolve) => {
      this.#reportClosed = resolve;
    });
  }

  /**
   * Waits for the greeting and enters command mode.
   * @throws SandboxError ERR_DEADLINE after timeoutMs("qmpHandshake"), ERR_CANCELED, ERR_UNAVAILABLE when QEMU closed
   *   the connection, ERR_PROTOCOL when the peer does not speak QMP. The stream is then closed.
   */
  static async connect(init: QmpInit): Promise<QmpClient> {
    const client = new QmpClient(init);
    const greeting = new Promise<QmpVersion>((resolve, reject) => {
      client.#greeted = resolve;
      void client.closed.then(reject);
    });
    // Ends when the stream does; its failure is what `closed` reports.
    void client.#readAll();
    try {
      const limit = timeoutMs("qmpHandshake");
      client.#version = await withDeadline(greeting, limit, "waiting for QEMU's QMP greeting", init.signal);
      await client.#send("qmp_capabilities", undefined, { ...(init.signal && { signal: init.signal }) });
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** The version in QEMU's greeting. */
  get version(): QmpVersion {
    return this.#version;
  }

  /**
   * Runs a command and returns its answer. Answers may overtake each other only as QEMU sends them; each finds its call.
   * Note that an answer says what QEMU took, not what the guest did: ask the guest after a hotplug.
   * @throws SandboxError ERR_HOST with QEMU's text (ERR_NOT_FOUND, ERR_UNSUPPORTED, ERR_STATE by class), ERR_DEADLINE,
   *   ERR_CANCELED (the command may still take effect), ERR_UNAVAILABLE when the connection is over.
   */
  execute<Name extends keyof QmpCommands>(
    command: Name,
    ...rest: QmpCommands[Name]["args"] extends undefined
      ? [args?: undefined, options?: ExecuteOptions]
      : [args: QmpCommands[Name]["args"], options?: ExecuteOptions]
  ): Promise<QmpCommands[Name]["result"]> {
    const [args, options] = rest;
    return this.#send(command, args as JsonObject | undefined, options ?? {}) as Promise<
      QmpCommands[Name]["result"]
    >;
  }

  /** As execute(), for a command without types here. The answer is whatever QEMU sent. */
  executeRaw(command: string, args?: JsonObject, options: ExecuteOptions = {}): Promise<unknown> {
    return this.#send(command, args, options);
  }

  /** Calls `listener` for each `name` event, synchronously and in order. Returns the function that ends it. */
  on<Name extends keyof QmpEvents>(
    name: Name,
    listener: (event: QmpEvent<QmpEvents[Name] & JsonObject>) => void,
  ): () => void {
    return this.#hub.on((event) => {
      if (event.event === name) listener(event as unknown as QmpEvent<QmpEvents[Name] & JsonObject>);
    });
  }

  /** All events from the first `next()` on; ends when the connection is over. A consumer far behind loses the oldest. */
  events(): AsyncGenerator<QmpEvent, void, undefined> {
    return this.#hub.iterate();
  }

  /**
   * The first `name` event from now on for which `matches` is true. Call it before the command that causes the event.
   * Rejects when `signal` aborts (ERR_CANCELED) or the connection ends: pass a signal with a deadline.
   */
  async waitFor<Name extends keyof QmpEvents>(
    name: Name,
    matches: (data: QmpEvents[Name]) => boolean,
    signal: AbortSignal,
  ): Promise<QmpEvents[Name]> {
    const event = await this.#hub.next(
      (candidate) => candidate.event === name && matches(candidate.data as unknown as QmpEvents[Name]),
      signal,
    );
    return event.data as unknown as QmpEvents[Name];
  }

  /** Ends the connection; what is pending fails with ERR_UNAVAILABLE. Idempotent. */
  close(): void {
    this.#fail(new SandboxError("ERR_UNAVAILABLE", "the QMP connection was closed"));
  }

  async #send(command: string, args: JsonObject | undefined, options: ExecuteOptions): Promise<unknown> {
    if (this.#failure !== undefined) throw this.#lost(command, this.#failure);
    const fds = options.fds ?? [];
    const transmit = this.#transmitter(fds);
    const id = ++this.#lastId;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { command, resolve, reject });
    });
    const limit = options.timeoutMs ?? timeoutMs("qmpCommand");
    try {
      const waited = withDeadline(answer, limit, `QMP command ${command}`, options.signal);
      const message =
        args === undefined ? { execute: command, id } : { execute: command, arguments: args, id };
      const sent = this.#write(new TextEncoder().encode(`${JSON.stringify(message)}\r\n`), transmit);
      const [value] = await Promise.all([waited, sent]);
      return value;
    } finally {
      // An answer that comes after the caller gave up is dropped like one with an unknown id.
      this.#pending.delete(id);
    }
  }

  #transmitter(fds: readonly number[]): (bytes: Uint8Array) => Promise<void> {
    if (fds.length === 0) return (bytes) => this.#stream.write(bytes);
    const send = this.#sendWithFds;
    if (send === undefined) {
      throw new SandboxError("ERR_UNSUPPORTED", "this QMP connection cannot pass file descriptors");
    }
    return (bytes) => send(bytes, fds);
  }

  /** Resolves when the bytes were taken. A failure ends the connection, and every pending call with it. */
  #write(bytes: Uint8Array, transmit: (bytes: Uint8Array) => Promise<void>): Promise<void> {
    this.#writes = this.#writes
      .then(() => transmit(bytes))
      .catch((cause: unknown) => {
        this.#fail(new SandboxError("ERR_UNAVAILABLE", "writing to QEMU's QMP socket failed", { cause }));
      });
    return this.#writes;
  }

  async #readAll(): Promise<void> {
    const splitter = new MessageSplitter();
    try {
      for await (const chunk of this.#stream.readable) {
        for (const line of splitter.push(chunk)) this.#take(line);
      }
      this.#fail(new SandboxError("ERR_UNAVAILABLE", "QEMU closed the QMP connection"));
    } catch (error) {
      this.#fail(
        error instanceof SandboxError
          ? error
          : new SandboxError("ERR_UNAVAILABLE", "the QMP connection broke", { cause: error }),
      );
    }
  }

  #take(line: string): void {
    const message = parseMessage(line);
    switch (message.kind) {
      case "greeting":
        this.#greeted(message.version);
        return;
      case "event":
        this.#log.debug({ event: message.event.event, data: message.event.data }, "QMP event");
        this.#hub.emit(message.event);
        return;
      case "return":
        this.#pendingOf(message.id)?.resolve(message.value);
        return;
      case "error": {
        const pending = this.#pendingOf(message.id);
        const { errorClass, description } = message;
        pending?.reject(
          new SandboxError(
            errorCodes[errorClass] ?? "ERR_HOST",
            `QEMU refused ${pending.command}: ${description}`,
            { fields: { qmpClass: errorClass } },
          ),
        );
        return;
      }
    }
  }

  /** The call that an answer belongs to. An error about an unreadable command has no id: QEMU answers in order. */
  #pendingOf(id: unknown): Pending | undefined {
    if (typeof id === "number") return this.#pending.get(id);
    return id === undefined ? this.#pending.values().next().value : undefined;
  }

  #lost(command: string, reason: SandboxError): SandboxError {
    return new SandboxError("ERR_UNAVAILABLE", `QMP command ${command} got no answer`, { cause: reason });
  }

  #fail(reason: SandboxError): void {
    if (this.#failure !== undefined) return;
    this.#failure = reason;
    for (const pending of this.#pending.values()) pending.reject(this.#lost(pending.command, reason));
    this.#pending.clear();
    this.#hub.end(reason);
    this.#stream.destroy();
    this.#reportClosed(reason);
  }
}
