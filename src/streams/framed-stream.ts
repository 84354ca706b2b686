/**
 * One stdio or console stream over a connection of its own (docs/protocol.md, "Stream frames").
 *
 * Both sides keep the same rules: DATA only against credit, an explicit EOF per direction, RESET for everything that
 * goes wrong. What waits in memory is bounded: per stream one receive window and the frame being written. The side
 * that opened (the host) answers the peer's EOF with its own, and whoever then has sent and received EOF closes.
 *
 *   opener:    FramedStream.open() ── await opened ── send / readable ── sendEof ── closed
 *   acceptor:  await FramedStream.accept() ── confirm() or reset() ── send / readable ── sendEof ── closed
 *
 * Portable: runs on Node and on QuickJS; no timers, so every deadline is the caller's, ending in reset().
 */
import { type ByteStream, written } from "../base/byte-stream.ts";
import { describeError, SandboxError } from "../base/errors.ts";
import {
  encodeFrame,
  encodeSize,
  encodeU32,
  type Frame,
  FrameDecoder,
  FrameType,
  HEADER_BYTES,
  MAX_FRAME_BYTES,
  MAX_PAYLOAD_BYTES,
  readU32,
  writeHeader,
} from "./frame.ts";
import { decodeReason, encodeReason } from "./reason.ts";
import { MAX_WINDOW_BYTES, ReceiveWindow } from "./receive-window.ts";

export interface FramedStreamOptions {
  /** Bytes the peer may send ahead of our consumer; default and maximum 262,144; 0 when nothing will be read. */
  readonly windowBytes?: number;
  /**
   * Keep our direction open after the peer's EOF was taken (the guest's console, which still has output). Default: our
   * EOF follows the peer's, and what was still to be sent is refused.
   */
  readonly keepSending?: boolean;
  /**
   * Takes of the bytes that come what it can at once, and says how many; the consumer of `readable` gets the rest. Asked only
   * while that one waits. Spares the jobs of promises. Must not throw, nor keep the array.
   */
  readonly takeNow?: (bytes: Uint8Array) => number;
  /** A console's RESIZE; without it such a frame is a violation. Acceptor only. Must not throw. */
  readonly onResize?: (columns: number, rows: number) => void;
  /** A console's EXIT; without it such a frame is a violation. Opener only. Must not throw. */
  readonly onExit?: (status: number) => void;
}

type Waiter = { readonly resolve: () => void };
const ignore = () => undefined;

export class FramedStream {
  /** Where sendNow() has its frame made, one for all streams. It is given away with a frame that the transport keeps. */
  static #scratch: Uint8Array | undefined;
  readonly #transport: ByteStream;
  readonly #role: "opener" | "acceptor";
  #options: FramedStreamOptions;
  #window: ReceiveWindow;
  /** Bytes of DATA that we may still send. */
  #credit = 0;
  /** Bytes of DATA that the peer has granted in all, and with its first grant, which is its whole window. */
  #granted = 0;
  #firstGrant = 0;
  /** The peer answered OPEN (opener), or we did (acceptor). */
  #established = false;
  #gotEof = false;
  #gotExit = false;
  #eof: "no" | "queued" | "written" = "no";
  /** Why writing failed. The stream goes on until its reader has seen what the peer said last. */
  #writeError: unknown;
  #eofSent: Promise<void> | undefined;
  /** Set once, when it is all over; `error` is undefined after a clean end. */
  #end: { readonly error: SandboxError | undefined } | undefined;
  /** Sends in the order of their calls, and how many of them are not done. */
  #sends: Promise<unknown> = Promise.resolve();
  #sending = 0;
  /** Frames that the transport has not taken yet. */
  #writing = 0;
  #creditToWrite = 0;
  #writingCredit = false;
  /** Who waits for credit, or until what was sent before is out. */
  #waiters: Waiter[] = [];
  #reader: Waiter | undefined;
  #iterated = false;
  #resume: () => void = ignore;
  #settleOpened: { resolve: () => void; reject: (error: unknown) => void } = {
    resolve: ignore,
    reject: ignore,
  };
  #settleClosed: (error: SandboxError | undefined) => void = ignore;

  /**
   * Opener: resolves when the peer took the stream; rejects with ERR_STATE and its reason when it refused, otherwise when the
   * connection broke before.
   */
  readonly opened: Promise<void>;
  /** Resolves when it is all over: with undefined after EOF in both directions, else with what ended it. */
  readonly closed: Promise<SandboxError | undefined>;

  private constructor(transport: ByteStream, role: "opener" | "acceptor", options: FramedStreamOptions) {
    this.#transport = transport;
    this.#role = role;
    this.#options = options;
    this.#window = new ReceiveWindow(options.windowBytes ?? MAX_WINDOW_BYTES);
    this.opened = new Promise((resolve, reject) => {
      this.#settleOpened = { resolve, reject };
    });
    this.opened.catch(ignore);
    this.closed = new Promise((resolve) => {
      this.#settleClosed = resolve;
    });
  }

  /** Sends OPEN and the first credit. The stream owns the transport from here on. Wait for `opened`. */
  static open(transport: ByteStream, payload: Uint8Array, options: FramedStreamOptions = {}): FramedStream {
    const stream = new FramedStream(transport, "opener", options);
    stream.#write(encodeFrame(FrameType.Open, payload)).catch(ignore);
    stream.#grant();
    void stream.#pump(ignore);
    return stream;
  }

  /**
   * Waits for the peer's OPEN; then the caller answers with confirm() or reset(). Owns the transport from here on;
   * to give up waiting, destroy the transport.
   * @returns the stream and the payload of OPEN (a copy).
   * @throws SandboxError ERR_PROTOCOL or ERR_UNAVAILABLE; the transport is then destroyed.
   */
  static accept(transport: ByteStream): Promise<{ stream: FramedStream; open: Uint8Array }> {
    const stream = new FramedStream(transport, "acceptor", {});
    return new Promise((resolve, reject) => {
      void stream.#pump((payload) => resolve({ stream, open: payload.slice() }));
      void stream.closed.then((error) => reject(error ?? stream.#reasonToStop()));
    });
  }

  /** Acceptor: takes the stream and grants the first credit. */
  confirm(options: FramedStreamOptions = {}): void {
    if (this.#role !== "acceptor" || this.#established)
      throw new SandboxError("ERR_STATE", "this stream was answered");
    if (this.#end !== undefined) return;
    this.#options = options;
    this.#window = new ReceiveWindow(options.windowBytes ?? MAX_WINDOW_BYTES);
    this.#established = true;
    this.#settleOpened.resolve();
    // The first CREDIT is the answer to OPEN, even when it grants nothing.
    if (this.#grant() === 0) this.#write(encodeFrame(FrameType.Credit, encodeU32(0))).catch(ignore);
    this.#resume();
  }

  /** Bytes that can be sent now without waiting for the peer. */
  get credit(): number {
    return this.#credit;
  }

  /** Bytes that the peer's consumer has taken, as far as its grants tell: what went beyond the first of them. */
  get consumed(): number {
    return this.#granted - this.#firstGrant;
  }

  /** Bytes of memory that hold received data. */
  get bufferBytes(): number {
    return this.#window.capacity;
  }

  /** Whether data would go out now: there is credit, and nothing that was sent before still waits. */
  get ready(): boolean {
    return this.#credit > 0 && this.#writing === 0 && this.#sending === 0;
  }

  /** Resolves when `ready` is true: read a pipe only then, and the rest stays in it. @throws as send() */
  async whenReady(): Promise<void> {
    while (!this.ready) {
      this.#checkSending();
      await new Promise<void>((resolve) => this.#waiters.push({ resolve }));
    }
    this.#checkSending();
  }

  /**
   * Sends what `fill` writes to the beginning of the array that it gets, which is as long as a frame and the credit allow.
   * Waits for nothing, and copies nothing.
   * @param fill returns how many bytes it wrote
   * @returns so many; 0 too when the stream is not `ready`
   * @throws as send()
   */
  sendNow(fill: (payload: Uint8Array) => number): number {
    this.#checkSending();
    if (!this.ready) return 0;
    const frame = FramedStream.#scratch ?? new Uint8Array(MAX_FRAME_BYTES);
    FramedStream.#scratch = frame;
    const most = Math.min(this.#credit, MAX_PAYLOAD_BYTES);
    const count = fill(frame.subarray(HEADER_BYTES, HEADER_BYTES + most));
    if (count === 0) return 0;
    writeHeader(frame, FrameType.Data, count);
    this.#credit -= count;
    const done = this.#write(frame.subarray(0, HEADER_BYTES + count));
    if (done !== written) {
      FramedStream.#scratch = undefined;
      done.catch(ignore);
    }
    return count;
  }

  /**
   * Sends bytes; resolves when the last of them was written, which waits for the peer's credit. Calls are served in
   * their order. `bytes` must not change meanwhile.
   * @throws SandboxError ERR_UNAVAILABLE, ERR_PROTOCOL or ERR_CANCELED when the stream ended, ERR_STATE after EOF.
   */
  send(bytes: Uint8Array): Promise<void> {
    return this.#inOrder(async () => {
      for (let offset = 0; offset < bytes.length; ) {
        await this.#whenCredit();
        const count = Math.min(bytes.length - offset, MAX_PAYLOAD_BYTES, this.#credit);
        this.#credit -= count;
        await this.#write(encodeFrame(FrameType.Data, bytes.subarray(offset, offset + count)));
        offset += count;
      }
    });
  }

  /** Ends our direction, after what was sent before. Idempotent. @throws as send() */
  sendEof(): Promise<void> {
    this.#eofSent ??= this.#eof === "no" ? this.#inOrder(() => this.#writeEof()) : Promise.resolve();
    return this.#eofSent;
  }

  /** Opener: the console's new size, 0 … 65535 each. */
  sendResize(columns: number, rows: number): Promise<void> {
    return this.#write(encodeFrame(FrameType.Resize, encodeSize(columns, rows)));
  }

  /** Acceptor: the console's exit status, after what was sent before. */
  sendExit(status: number): Promise<void> {
    return this.#inOrder(() => this.#write(encodeFrame(FrameType.Exit, encodeU32(status))));
  }

  /** Ends the stream at once, both ways; the peer is told the reason if the connection takes it. Idempotent. */
  reset(reason: string): void {
    if (this.#end !== undefined) return;
    this.#sendReset(reason);
    this.#finish(new SandboxError("ERR_CANCELED", reason === "" ? "the stream was reset" : reason), true);
  }

  /**
   * The peer's bytes, to its EOF. For one consumer, which grants credit by taking; when it stops early, the stream is
   * reset. Throws what ended the stream otherwise; after a broken connection first gives what had arrived.
   */
  readonly readable: AsyncIterable<Uint8Array> = {
    [Symbol.asyncIterator]: () => {
      if (this.#iterated) throw new SandboxError("ERR_STATE", "this stream has a reader already");
      this.#iterated = true;
      return {
        next: () => this.#next(),
        return: () => {
          this.reset("the reader stopped");
          return Promise.resolve({ done: true, value: undefined });
        },
      };
    },
  };

  async #next(): Promise<IteratorResult<Uint8Array, undefined>> {
    for (;;) {
      const chunk = this.#window.take();
      if (chunk !== undefined) {
        if (!this.#gotEof) this.#grant();
        else this.#finishWhenDone();
        return { done: false, value: chunk };
      }
      if (this.#gotEof || (this.#end !== undefined && this.#end.error === undefined)) {
        return { done: true, value: undefined };
      }
      if (this.#end !== undefined) throw this.#end.error;
      await new Promise<void>((resolve) => {
        this.#reader = { resolve };
      });
    }
  }

  // ---- receiving ----

  async #pump(onOpen: (payload: Uint8Array) => void): Promise<void> {
    const decoder = new FrameDecoder();
    try {
      for await (const chunk of this.#transport.readable) {
        if (!(await this.#takeChunk(decoder, chunk, onOpen))) return;
      }
    } catch (error) {
      this.#lost(error);
      return;
    }
    this.#lost(undefined);
  }

  /** @returns false when the stream is over. */
  async #takeChunk(
    decoder: FrameDecoder,
    chunk: Uint8Array,
    onOpen: (payload: Uint8Array) => void,
  ): Promise<boolean> {
    try {
      for (const frame of decoder.push(chunk)) {
        if (this.#end !== undefined) return false;
        if (frame.type === FrameType.Open) await this.#takeOpen(frame, onOpen);
        else this.#take(frame);
      }
    } catch (error) {
      this.#violated(error);
    }
    return this.#end === undefined;
  }

  /** What follows OPEN waits until the owner has answered it. */
  async #takeOpen(frame: Frame, onOpen: (payload: Uint8Array) => void): Promise<void> {
    if (this.#role === "opener" || this.#resume !== ignore)
      throw violation("an OPEN frame that is not the first");
    const answered = new Promise<void>((resolve) => {
      this.#resume = resolve;
    });
    onOpen(frame.payload);
    await answered;
  }

  #take({ type, payload }: Frame): void {
    if (!this.#established) this.#establish(type);
    switch (type) {
      case FrameType.Data:
        if (this.#gotEof) throw violation("data after EOF");
        this.#takeData(payload);
        return;
      case FrameType.Credit:
        this.#takeCredit(readU32(payload, 0));
        return;
      case FrameType.Eof:
        if (this.#gotEof) throw violation("a second EOF");
        this.#gotEof = true;
        this.#wakeReader();
        this.#finishWhenDone();
        return;
      case FrameType.Reset:
        this.#takeReset(payload);
        return;
      case FrameType.Resize:
        if (this.#options.onResize === undefined) throw violation("an unexpected RESIZE");
        this.#options.onResize(readU32(payload, 0) >>> 16, readU32(payload, 0) & 0xffff);
        return;
      case FrameType.Exit:
        if (this.#options.onExit === undefined) throw violation("an unexpected EXIT");
        if (this.#gotExit) throw violation("a second EXIT");
        this.#gotExit = true;
        this.#options.onExit(readU32(payload, 0));
        return;
    }
  }

  #takeData(payload: Uint8Array): void {
    this.#window.admit(payload.length);
    // A consumer that waits has done what it wanted with all that came before.
    const taken = this.#reader === undefined ? 0 : (this.#options.takeNow?.(payload) ?? 0);
    if (taken > 0) {
      this.#window.pass(taken);
      this.#grant();
    }
    if (taken === payload.length) return;
    this.#window.keep(payload.subarray(taken));
    this.#wakeReader();
  }

  /** The first frame: the acceptor must have seen OPEN; the opener gets CREDIT, or RESET. */
  #establish(type: FrameType): void {
    if (this.#role === "acceptor") throw violation("a stream that does not begin with OPEN");
    if (type === FrameType.Reset) return;
    if (type !== FrameType.Credit) throw violation("an answer to OPEN that is neither CREDIT nor RESET");
    this.#established = true;
    this.#settleOpened.resolve();
  }

  #takeCredit(bytes: number): void {
    if (this.#credit + bytes > MAX_WINDOW_BYTES) throw violation("more credit than a window");
    this.#credit += bytes;
    this.#granted += bytes;
    if (this.#firstGrant === 0) this.#firstGrant = bytes;
    if (this.#credit > 0) this.#wakeSenders();
  }

  #takeReset(payload: Uint8Array): void {
    const reason = decodeReason(payload);
    const text = reason === "" ? "the peer reset the stream" : `the peer reset the stream: ${reason}`;
    this.#finish(new SandboxError(this.#established ? "ERR_UNAVAILABLE" : "ERR_STATE", text), true);
  }

  /** Grants what is due; several grants become one frame while the transport is busy. @returns the bytes granted. */
  #grant(): number {
    const bytes = this.#window.due();
    if (bytes === 0) return 0;
    this.#creditToWrite += bytes;
    this.#writeCredit();
    return bytes;
  }

  #writeCredit(): void {
    const bytes = this.#creditToWrite;
    if (this.#writingCredit || bytes === 0 || this.#end !== undefined) return;
    this.#creditToWrite = 0;
    const done = this.#write(encodeFrame(FrameType.Credit, encodeU32(bytes)));
    if (done === written) return;
    this.#writingCredit = true;
    void done.catch(ignore).then(() => {
      this.#writingCredit = false;
      this.#writeCredit();
    });
  }

  // ---- sending ----

  #inOrder(step: () => Promise<void>): Promise<void> {
    this.#sending++;
    const done = this.#sends.then(() => {
      this.#checkSending();
      return step();
    });
    this.#sends = done.catch(ignore).then(() => {
      this.#sending--;
      this.#wakeSenders();
    });
    return done;
  }

  async #whenCredit(): Promise<void> {
    for (;;) {
      this.#checkSending(); // the peer's EOF may have ended our direction meanwhile
      if (this.#credit > 0) return;
      await new Promise<void>((resolve) => this.#waiters.push({ resolve }));
    }
  }

  #checkSending(): void {
    if (this.#end !== undefined || this.#eof !== "no" || this.#writeError !== undefined)
      throw this.#reasonToStop();
  }

  #reasonToStop(): SandboxError {
    if (this.#end?.error !== undefined) return this.#end.error;
    if (this.#eofSent !== undefined)
      return new SandboxError("ERR_STATE", "the stream was ended with EOF before");
    if (this.#writeError !== undefined) {
      return new SandboxError("ERR_UNAVAILABLE", "the connection broke", { cause: this.#writeError });
    }
    if (this.#gotEof) return new SandboxError("ERR_UNAVAILABLE", "the peer has closed the stream");
    return new SandboxError("ERR_STATE", "the stream has ended");
  }

  async #writeEof(): Promise<void> {
    this.#eof = "queued";
    this.#wakeSenders();
    await this.#write(encodeFrame(FrameType.Eof));
    this.#eof = "written";
    this.#finishWhenDone();
  }

  /** One frame, one write, after those before it. `written` when the transport took it at once. */
  #write(frame: Uint8Array): Promise<void> {
    if (this.#end !== undefined) return Promise.reject(this.#reasonToStop());
    const done = this.#transport.write(frame);
    if (done === written) return written;
    this.#writing++;
    return done
      .catch((error: unknown) => {
        this.#writeError ??= error;
        throw this.#reasonToStop();
      })
      .finally(() => {
        this.#writing--;
        this.#wakeSenders();
      });
  }

  // ---- ending ----

  /** After the peer's EOF was taken: sends ours unless it was sent or is still to come, then closes. */
  #finishWhenDone(): void {
    if (this.#end !== undefined || !this.#gotEof || this.#window.buffered > 0) return;
    if (this.#eof === "written") this.#finish(undefined, false);
    else if (this.#eof === "no" && this.#options.keepSending !== true) this.#writeEof().catch(ignore);
  }

  /** The connection ended under us. Data that had arrived can still be read. */
  #lost(cause: unknown): void {
    // Both directions are complete, and only our own EOF may not have arrived, at a peer that has left.
    const clean = this.#gotEof && this.#eof !== "no";
    const text =
      cause === undefined ? "the peer closed the connection in mid-stream" : "the connection broke";
    this.#finish(clean ? undefined : new SandboxError("ERR_UNAVAILABLE", text, { cause }), false);
  }

  #violated(error: unknown): void {
    this.#sendReset(describeError(error));
    const known = error instanceof SandboxError && error.code === "ERR_PROTOCOL";
    const text = "the peer broke the stream protocol";
    this.#finish(known ? error : new SandboxError("ERR_INTERNAL", text, { cause: error }), true);
  }

  /** Past the queue and not waited for: it arrives if the transport takes it at once. */
  #sendReset(reason: string): void {
    this.#transport.write(encodeFrame(FrameType.Reset, encodeReason(reason))).catch(ignore);
  }

  #finish(error: SandboxError | undefined, dropUnread: boolean): void {
    if (this.#end !== undefined) return;
    this.#end = { error };
    if (dropUnread) this.#window.clear();
    this.#transport.destroy();
    this.#settleOpened.reject(this.#reasonToStop());
    this.#settleClosed(error);
    this.#resume();
    this.#wakeReader();
    this.#wakeSenders();
  }

  #wakeReader(): void {
    const reader = this.#reader;
    this.#reader = undefined;
    reader?.resolve();
  }

  #wakeSenders(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.resolve();
  }
}

function violation(what: string): SandboxError {
  return new SandboxError("ERR_PROTOCOL", `stream protocol violation: ${what}`);
}
