/**
 * Copies between the host ends of a process's stdio and its streams to the guest. Each direction is on its own; a
 * stalled reader stalls its own stream and nothing else, and nobody waits here for the process, nor it for us.
 */
import { describeError } from "../../base/errors.ts";
import { failPoint } from "../../base/failpoint.ts";
import type { Log } from "../../base/log.ts";
import { timeoutMs } from "../../base/timeouts.ts";
import type { InputSource, OutputSink } from "./endpoints.ts";
import type { HostStdio } from "./open.ts";
import { Redial } from "./redial.ts";

const OUTPUTS = ["stdout", "stderr"] as const;
type OutputName = (typeof OUTPUTS)[number];
export type StreamName = "stdin" | OutputName;

/** One stream to the guest, after OPEN was answered. */
export interface GuestStream {
  readonly readable: AsyncIterable<Uint8Array>;
  send(bytes: Uint8Array): Promise<void>;
  sendEof(): Promise<void>;
  reset(reason: string): void;
}

/**
 * @param received bytes of this output that are here: the stream begins behind them.
 * @throws SandboxError ERR_UNAVAILABLE or ERR_DEADLINE where another attempt may succeed.
 */
export type DialStream = (name: StreamName, received: number) => Promise<GuestStream>;

/** Bytes that a process has written to each of its outputs. */
export interface OutputBytes {
  readonly stdout: number;
  readonly stderr: number;
}

/** What became of a process's output: `unread` by the host's reader, `unsent` by the guest, in time. */
export type Drained = "delivered" | "unread" | "unsent";

export class ProcessIo {
  readonly #host: HostStdio;
  readonly #log: Log;
  readonly #streams = new Set<GuestStream>();
  readonly #failed = new Set<OutputSink>();
  /** Output streams that have not come to their end, and outputs, whether or not there is a stream for them just now. */
  readonly #receiving = new Set<GuestStream>();
  #unfinished = 0;
  #outputs: Promise<unknown> = Promise.resolve();
  #progress = 0;
  /** What the sinks have taken, or never will, and who is told when it becomes more. */
  readonly #taken = { stdout: 0, stderr: 0 };
  #wake: () => void = () => undefined;
  /** Writes that a sink has not taken yet. */
  #writing = 0;
  readonly #closing = new AbortController();
  #late: NodeJS.Timeout | undefined;

  constructor(host: HostStdio, log: Log) {
    this.#host = host;
    this.#log = log;
  }

  /** Dials every stream that has a host end and starts copying. Resolves when all are attached. */
  async attach(dial: DialStream): Promise<void> {
    const { stdin, stdout, stderr } = this.#host;
    const attached = await Promise.allSettled([
      stdin && this.#open(dial, "stdin", 0),
      stdout && this.#open(dial, "stdout", 0),
      stderr && this.#open(dial, "stderr", 0),
    ]);
    const failed = attached.find((result) => result.status === "rejected");
    if (failed !== undefined) {
      this.close();
      throw failed.reason;
    }
    const [input, output, error] = attached.map((result) =>
      result.status === "fulfilled" ? result.value : undefined,
    );
    if (stdin !== undefined && input !== undefined) void this.#copyInput(stdin, input);
    const copies: Promise<void>[] = [];
    if (stdout !== undefined && output !== undefined)
      copies.push(this.#copyOutput(stdout, output, dial, "stdout"));
    if (stderr !== undefined && error !== undefined)
      copies.push(this.#copyOutput(stderr, error, dial, "stderr"));
    this.#outputs = Promise.all(copies);
  }

  /** CloseIO: what the client wrote before still reaches the process, then its stdin ends. */
  closeStdin(): void {
    this.#host.stdin?.finish();
  }

  /**
   * Waits until the readers have what the process has written: that much comes, whoever else still writes; a stream that
   * stands still meanwhile is dialled again. Ends early when a reader does not read, and in any case soon. Never rejects.
   */
  async handOver(written: OutputBytes): Promise<void> {
    const missing = () => OUTPUTS.some((name) => this.#host[name] && this.#taken[name] < written[name]);
    const enough = new AbortController();
    let seen = this.#progress;
    let still = 0;
    const idle = setInterval(() => {
      const awaitsGuest = missing() && this.#writing === 0;
      still = this.#progress === seen ? still + 1 : 0;
      seen = this.#progress;
      if (still > 0 && !awaitsGuest) enough.abort();
      else if (still === 2) this.#redial();
    }, timeoutMs("exitReader"));
    const limit = setTimeout(() => enough.abort(), timeoutMs("exitOutput"));
    const stopped = new Promise<void>((resolve) => enough.signal.addEventListener("abort", () => resolve()));
    const taken = new Promise<void>((resolve) => {
      this.#wake = () => void (missing() || resolve());
    });
    this.#wake();
    try {
      failPoint("exit.heard");
      await Promise.race([taken, this.#outputs, stopped]);
      const moved = () => void this.#progress++;
      await Promise.all(OUTPUTS.map((name) => this.#host[name]?.read?.(moved, enough.signal)));
    } catch (error) {
      this.#log.debug({ err: describeError(error) }, "the exit does not wait for its output");
    } finally {
      clearInterval(idle);
      clearTimeout(limit);
      enough.abort();
      this.#lookAgain();
    }
  }

  /**
   * Waits until all output was delivered, or until nothing moved for as long as the sinks have patience, or for as long
   * as a guest may go on sending. Halfway, a stream that stands still with nothing to deliver is dialled again: what the
   * guest has not sent it then sends on the new one.
   */
  async drain(): Promise<Drained> {
    const sinks = [this.#host.stdout, this.#host.stderr];
    const patienceMs = Math.max(0, ...sinks.map((sink) => sink?.patienceMs ?? 0));
    let timer: ReturnType<typeof setInterval> | undefined;
    let limit: ReturnType<typeof setTimeout> | undefined;
    const stalled = new Promise<Drained>((resolve) => {
      const giveUp = () => resolve(this.#awaitsGuest ? "unsent" : "unread");
      let seen = this.#progress;
      let idle = false;
      timer = setInterval(() => {
        if (this.#progress !== seen) idle = false;
        else if (idle) giveUp();
        else {
          idle = true;
          if (this.#awaitsGuest) this.#redial();
        }
        seen = this.#progress;
      }, patienceMs / 2);
      limit = setTimeout(giveUp, Math.max(patienceMs, timeoutMs("stdioDrainAll")));
    });
    try {
      return await Promise.race([this.#outputs.then((): Drained => "delivered"), stalled]);
    } finally {
      clearInterval(timer);
      clearTimeout(limit);
    }
  }

  /** Ends everything at once; readers on the host see end of file. Idempotent. What remains to end is `released`. */
  close(): void {
    if (this.#closed) return;
    this.#closing.abort();
    clearTimeout(this.#late);
    for (const stream of this.#streams) stream.reset("closed by the host");
    this.#host.stdin?.close();
    this.#host.stdout?.close();
    this.#host.stderr?.close();
  }

  /** Resolves when nothing of the host ends is left; to be awaited after `close`. */
  async released(): Promise<void> {
    await Promise.all([this.#host.stdout?.released, this.#host.stderr?.released]);
  }

  get #closed(): boolean {
    return this.#closing.signal.aborted;
  }

  /** Whether it is the guest that something is to come from. */
  get #awaitsGuest(): boolean {
    return this.#unfinished > 0 && this.#writing === 0;
  }

  /** A stream that stands still after the exit may have lost its end on the way; or somebody holds it, and it goes on. */
  #lookAgain(): void {
    const seen = this.#progress;
    this.#late = setTimeout(() => {
      if (!this.#closed && this.#progress === seen && this.#awaitsGuest) this.#redial();
    }, timeoutMs("stdioDrain") / 2);
    this.#late.unref();
  }

  #redial(): void {
    this.#log.info({}, "nothing comes from the guest after the process's end: its output is dialled again");
    for (const stream of this.#receiving) stream.reset("stands still after the process's end");
  }

  async #open(dial: DialStream, name: StreamName, received: number): Promise<GuestStream> {
    const stream = await dial(name, received);
    if (this.#closed) stream.reset("closed by the host");
    else this.#streams.add(stream);
    return stream;
  }

  async #copyInput(source: InputSource, stream: GuestStream): Promise<void> {
    try {
      for await (const chunk of source.chunks) {
        failPoint("stdio.input");
        await stream.send(chunk);
      }
      if (!this.#closed) await stream.sendEof();
    } catch (error) {
      // The process closed its stdin or ended; what is left in the pipe has no taker.
      this.#log.debug({ err: describeError(error) }, "stdin ended early");
      source.close();
    }
  }

  async #copyOutput(sink: OutputSink, first: GuestStream, dial: DialStream, name: OutputName): Promise<void> {
    this.#unfinished++;
    const redial = new Redial(this.#closing.signal);
    let stream = first;
    let received = 0;
    for (;;) {
      this.#receiving.add(stream);
      try {
        for await (const chunk of stream.readable) {
          received += chunk.length;
          redial.moved();
          await this.#deliver(sink, chunk, name);
        }
        break;
      } catch (error) {
        this.#streams.delete(stream);
        this.#receiving.delete(stream);
        if (this.#closed) break;
        this.#log.debug({ err: describeError(error) }, `${name} stream broke; dialling again`);
        try {
          stream = await redial.open(error, () => this.#open(dial, name, received));
        } catch (refusal) {
          if (!this.#closed)
            this.#log.warn({ err: describeError(refusal) }, `${name} was cut: its stream broke`);
          break;
        }
      }
    }
    this.#streams.delete(stream);
    this.#receiving.delete(stream);
    this.#unfinished--;
    try {
      await sink.finish(() => void this.#progress++);
    } catch (error) {
      sink.close();
      if (!this.#closed)
        this.#log.warn({ err: describeError(error) }, `the end of ${name} was not delivered`);
    }
  }

  /** A sink that fails loses what it did not take; the process must neither block nor die of it. */
  async #deliver(sink: OutputSink, chunk: Uint8Array, name: OutputName): Promise<void> {
    this.#writing++;
    try {
      failPoint("stdio.output");
      if (!this.#failed.has(sink)) await sink.write(chunk);
      this.#progress++;
    } catch (error) {
      if (this.#closed) throw error;
      this.#failed.add(sink);
      this.#log.warn({ err: describeError(error) }, `${name} is dropped from here on`);
    } finally {
      this.#writing--;
      this.#taken[name] += chunk.length;
      this.#wake();
    }
  }
}
