/** The other end of a connection under test, at the level of frames. */
import type { ByteStream } from "../../../src/base/byte-stream.ts";
import { encodeRequestFrame } from "../../../src/ttrpc/envelope.ts";
import { FrameDecoder, type FrameHeader, HEADER_LENGTH, writeHeader } from "../../../src/ttrpc/frame.ts";

export interface RawFrame extends FrameHeader {
  readonly data: Uint8Array;
}

export class RawPeer {
  readonly stream: ByteStream;
  readonly #frames: RawFrame[] = [];
  #ended = false;
  #wake: () => void = () => undefined;

  constructor(stream: ByteStream) {
    this.stream = stream;
    void this.#read();
  }

  /** The next frame that arrived; undefined when the connection ended instead. */
  async next(): Promise<RawFrame | undefined> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame !== undefined || this.#ended) return frame;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  async send(
    streamId: number,
    type: number,
    flags: number,
    data: Uint8Array = new Uint8Array(0),
  ): Promise<void> {
    const frame = new Uint8Array(HEADER_LENGTH + data.length);
    writeHeader(frame, { length: data.length, streamId, type, flags });
    frame.set(data, HEADER_LENGTH);
    await this.stream.write(frame);
  }

  async request(
    streamId: number,
    service: string,
    method: string,
    payload = new Uint8Array(0),
    flags = 0,
  ): Promise<void> {
    await this.stream.write(encodeRequestFrame(streamId, flags, { service, method, payload }));
  }

  async #read(): Promise<void> {
    const decoder = new FrameDecoder({
      onFrame: (header, data) => {
        this.#frames.push({ ...header, data });
        this.#wake();
      },
      onOversize: () => undefined,
    });
    try {
      for await (const chunk of this.stream.readable) decoder.push(chunk);
    } catch {
      // The same as an end to these tests.
    }
    this.#ended = true;
    this.#wake();
  }
}

/** A promise with its handles outside. */
export function deferred<T>(): {
  promise: Promise<T>;
  resolve: (value: T) => void;
  reject: (error: unknown) => void;
} {
  let resolve: (value: T) => void = () => undefined;
  let reject: (error: unknown) => void = () => undefined;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}

/** A service whose methods are given as functions on bytes. */
export function rawService(
  name: string,
  methods: Record<string, import("../../../src/ttrpc/service.ts").MethodHandler>,
): import("../../../src/ttrpc/service.ts").ServiceRegistration {
  return { name, methods: new Map(Object.entries(methods)) };
}
