/** The frames of stdio, forwarded ports and the debug console (docs/protocol.md). */
import assert from "node:assert/strict";
import { SandboxError } from "../../../src/base/errors.ts";
import { encodeFrame, FrameDecoder, FramedStream, MAX_WINDOW_BYTES } from "../../../src/streams/index.ts";
import { decodeReason, encodeReason, MAX_REASON_BYTES } from "../../../src/streams/reason.ts";
import { memoryStreamPair } from "../../../src/ttrpc/index.ts";
import { hasControl, must, refusalKind, type Target } from "../target.ts";

function cut(pieces: readonly Uint8Array[]): { types: number[]; bytes: Uint8Array[]; idle: boolean } {
  const decoder = new FrameDecoder();
  const types: number[] = [];
  const bytes: Uint8Array[] = [];
  for (const piece of pieces) {
    for (const { type, payload } of decoder.push(piece)) {
      types.push(type);
      bytes.push(encodeFrame(type, payload));
    }
  }
  return { types, bytes, idle: decoder.idle };
}

const frames: Target = {
  name: "stream-frames",
  about: "stream frames, in pieces of any size",
  format: "bytes",
  run(input, random) {
    const whole = cut([input]);
    assert.deepEqual(cut(random.pieces(input)), whole, "the pieces make a difference");
    if (whole.idle)
      must(Buffer.concat(whole.bytes).equals(input), "the frames written again are other bytes");
    return `${[...new Set(whole.types)].sort().join()} ${whole.idle}`;
  },
};

/** What a reader gets to its end, and how that came. */
async function readAll(stream: FramedStream): Promise<string> {
  let bytes = 0;
  try {
    for await (const chunk of stream.readable) bytes += chunk.length;
    return `${Math.ceil(Math.log2(bytes + 1))} eof`;
  } catch (error) {
    if (!(error instanceof SandboxError) || error.code === "ERR_INTERNAL") throw error;
    return refusalKind(error);
  }
}

const session: Target = {
  name: "stream-session",
  about: "a whole stream: first byte even, its opener; odd, its acceptor",
  format: "bytes",
  async run(input, random) {
    const [near, far] = memoryStreamPair();
    const opener = ((input[0] ?? 0) & 1) === 0;
    let asides = 0;
    const aside = () => {
      asides += 1;
    };
    const drained = (async () => {
      for await (const _ of far.readable);
    })();
    const fed = (async () => {
      try {
        for (const piece of random.pieces(input.subarray(1))) await far.write(piece);
      } catch {
        // The stream has ended.
      }
      far.end();
    })();
    let outcome: string;
    if (opener) {
      const stream = FramedStream.open(near, new Uint8Array(8), { onExit: aside });
      stream.send(new Uint8Array(300)).catch(expected);
      outcome = await readAll(stream);
      must(stream.credit <= MAX_WINDOW_BYTES, "more credit than a window");
      must(stream.bufferBytes <= MAX_WINDOW_BYTES, "more memory than a window");
      stream.reset("");
      await stream.closed;
    } else {
      const accepted = FramedStream.accept(near);
      outcome = await accepted.then(
        async ({ stream }) => {
          stream.confirm({ onResize: aside });
          const read = await readAll(stream);
          stream.reset("");
          await stream.closed;
          return read;
        },
        (error: unknown) => {
          expected(error);
          return refusalKind(error);
        },
      );
    }
    near.destroy();
    await Promise.all([drained, fed]);
    return `${opener} ${outcome} ${Math.min(asides, 3)}`;
  },
};

function expected(error: unknown): void {
  if (!(error instanceof SandboxError) || error.code === "ERR_INTERNAL") throw error;
}

const reason: Target = {
  name: "reset-reason",
  about: "the text of a RESET frame, which goes to logs and terminals",
  format: "text",
  run(input) {
    const text = decodeReason(input);
    must(text.length <= MAX_REASON_BYTES, "longer than the limit");
    must(!hasControl(text), "a control character");
    must(!/\p{Surrogate}/u.test(text), "half of a character");
    const encoded = encodeReason(text);
    must(text.startsWith(decodeReason(encoded)), "another text when it is encoded and decoded again");
    must(encoded.length <= MAX_REASON_BYTES, "encoded to more than the limit");
    return `${text.includes("\ufffd")} ${Math.ceil(Math.log2(text.length + 1))}`;
  },
};

export const streamTargets: readonly Target[] = [frames, session, reason];
