/**
 * Serves the stdio streams of processes (docs/protocol.md, port 1025): one connection per stream, each attached to one
 * end of a process's ProcessStdio. A stalled reader stops only the pipe it reads.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { describeError, SandboxError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import { logField } from "../../../src/base/log-fields.ts";
import { StreamKind, type StreamOpen, StreamOpenSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { FramedStream } from "../../../src/streams/index.ts";
import type { FdStream } from "../fd-stream.ts";
import type { InputEnd } from "./input-end.ts";
import { OutputEnd, type OutputReader } from "./output-end.ts";
import type { ProcessStdio } from "./process-stdio.ts";

/** Milliseconds from the connection to a complete OPEN. */
const OPEN_LIMIT_MS = 10_000;
/** Connections at one time: three streams for each of some thousand processes. */
const MAX_STREAMS = 4096;

export interface StreamServerDeps {
  readonly log: Log;
  readonly stdio: (containerId: string, execId: string) => ProcessStdio | undefined;
}

export class StreamServer {
  readonly #deps: StreamServerDeps;
  #count = 0;

  constructor(deps: StreamServerDeps) {
    this.#deps = deps;
  }

  /** Connections that are open now. */
  get count(): number {
    return this.#count;
  }

  /** Serves one connection to its end. Owns it. Never rejects. */
  async serve(connection: FdStream): Promise<void> {
    if (this.#count >= MAX_STREAMS) {
      connection.destroy();
      this.#deps.log.warn({}, `a stdio stream was turned away: ${MAX_STREAMS} are open`);
      return;
    }
    this.#count++;
    try {
      const { stream, open } = await acceptStream(connection);
      await this.#attach(stream, open);
    } catch (error) {
      connection.destroy();
      this.#deps.log.warn({ err: describeError(error) }, "a stdio stream ended badly");
    } finally {
      this.#count--;
    }
  }

  async #attach(stream: FramedStream, payload: Uint8Array): Promise<void> {
    let open: StreamOpen;
    let end: InputEnd | OutputEnd;
    let trace: string;
    try {
      open = fromBinary(StreamOpenSchema, payload);
      [end, trace] = this.#find(open);
    } catch (error) {
      stream.reset(describeError(error));
      return;
    }
    try {
      if (end instanceof OutputEnd) await serveOutput(end, stream, open.received);
      else await serveInput(end, stream);
    } catch (error) {
      stream.reset(describeError(error));
      const { containerId: container, execId: exec } = open;
      const fields = {
        container,
        exec,
        err: describeError(error),
        ...(trace && { [logField.trace]: trace }),
      };
      this.#deps.log.debug(fields, `stdio stream of kind ${open.kind} ended early`);
    }
  }

  /** The end that is asked for, and its process's trace. */
  #find({ containerId, execId, kind }: StreamOpen): [InputEnd | OutputEnd, string] {
    const stdio = this.#deps.stdio(containerId, execId);
    const name = execId === "" ? `container ${containerId}` : `process ${execId} of container ${containerId}`;
    if (stdio === undefined) throw new SandboxError("ERR_NOT_FOUND", `there is no ${name}`);
    const end = new Map<number, InputEnd | OutputEnd | undefined>([
      [StreamKind.STDIN, stdio.stdin],
      [StreamKind.STDOUT, stdio.stdout],
      [StreamKind.STDERR, stdio.stderr],
    ]).get(kind);
    if (end === undefined) throw new SandboxError("ERR_NOT_FOUND", `${name} has no stream of kind ${kind}`);
    return [end, stdio.traceId];
  }
}

/** The stream once its OPEN has arrived. @throws SandboxError when it does not in time, or is no OPEN */
export async function acceptStream(
  connection: FdStream,
): Promise<{ stream: FramedStream; open: Uint8Array }> {
  const timer = setTimeout(
    () => connection.destroy(new SandboxError("ERR_DEADLINE", "a stream was not opened in time")),
    OPEN_LIMIT_MS,
  );
  try {
    return await FramedStream.accept(connection);
  } finally {
    clearTimeout(timer);
  }
}

/** @param received bytes that the host has. @throws when the stream ended early */
async function serveOutput(end: OutputEnd, stream: FramedStream, received: bigint): Promise<void> {
  let complete = false;
  const reader = end.attach(Number(received), (reason) => {
    // Once its EOF is out, a stream of a deleted process is the host's to end.
    if (!complete || reason !== "the process was deleted") stream.reset(reason);
  });
  try {
    stream.confirm({ windowBytes: 0 });
    await sendOutput(reader, stream);
    if (!reader.ended) return;
    await stream.sendEof();
    complete = true;
    const error = await stream.closed;
    if (error !== undefined) throw error;
    reader.acknowledgeAll();
  } finally {
    reader.detach();
  }
}

/** Writes what the host sends; its EOF closes the pipe. @throws when the stream broke: the pipe stays open */
async function serveInput(end: InputEnd, stream: FramedStream): Promise<void> {
  if (!end.attach(() => stream.reset("the process was deleted"))) {
    throw new SandboxError("ERR_STATE", "the stream is attached already");
  }
  try {
    stream.confirm({ takeNow: (bytes) => end.writeNow(bytes) });
    for await (const chunk of stream.readable) await end.write(chunk);
    end.finish();
    const error = await stream.closed;
    if (error !== undefined) throw error;
  } finally {
    end.detach();
  }
}

/**
 * Sends what the process writes, only as far as the host has granted credit, until its last writer is gone or the stream
 * has ended. @throws when the stream ended early
 */
export async function sendOutput(reader: OutputReader, stream: FramedStream): Promise<void> {
  let over = false;
  let wake: () => void = () => undefined;
  // One reaction for the life of the stream; a race per wait would add one each time.
  void stream.closed.then(() => {
    over = true;
    wake();
  });
  const fill = (payload: Uint8Array) => reader.read(payload);
  for (;;) {
    await stream.whenReady();
    reader.acknowledge(stream.consumed);
    while (stream.sendNow(fill) > 0);
    if (reader.ended) return;
    if (!stream.ready) continue;
    await new Promise<void>((resolve) => {
      wake = resolve;
      reader.whenReadable(resolve);
    });
    if (over) return;
  }
}
