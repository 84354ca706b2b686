/** A byte stream whose two directions are kept. */
import type { ByteStream } from "../../../src/base/byte-stream.ts";
import { FrameDecoder, type FrameHeader } from "../../../src/ttrpc/frame.ts";

export interface Recording {
  readonly received: Uint8Array[];
  readonly sent: Uint8Array[];
}

export function tee(stream: ByteStream): { readonly stream: ByteStream; readonly recording: Recording } {
  const recording: Recording = { received: [], sent: [] };
  const readable = async function* () {
    for await (const chunk of stream.readable) {
      recording.received.push(Uint8Array.from(chunk));
      yield chunk;
    }
  };
  return {
    recording,
    stream: {
      readable: { [Symbol.asyncIterator]: readable },
      write: (bytes) => {
        recording.sent.push(Uint8Array.from(bytes));
        return stream.write(bytes);
      },
      end: () => stream.end(),
      destroy: (error) => stream.destroy(error),
    },
  };
}

/** The frames of a recorded direction. */
export function framesOf(chunks: readonly Uint8Array[]): { header: FrameHeader; data: Uint8Array }[] {
  const frames: { header: FrameHeader; data: Uint8Array }[] = [];
  const decoder = new FrameDecoder({
    onFrame: (header, data) => frames.push({ header, data: data.slice() }),
    onOversize: () => undefined,
  });
  for (const chunk of chunks) decoder.push(chunk);
  return frames;
}
