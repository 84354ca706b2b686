/** Flow-controlled streams of bytes over a connection each (docs/protocol.md). Shared with the guest agent. */

export { ByteRing } from "./byte-ring.ts";
export {
  encodeFrame,
  type Frame,
  FrameDecoder,
  FrameType,
  HEADER_BYTES,
  MAX_FRAME_BYTES,
  MAX_PAYLOAD_BYTES,
  readU32,
} from "./frame.ts";
export { FramedStream, type FramedStreamOptions } from "./framed-stream.ts";
export { decodeReason, encodeReason } from "./reason.ts";
export { MAX_WINDOW_BYTES } from "./receive-window.ts";
