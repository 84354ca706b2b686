/**
 * The few Web globals that the portable code (src/base, src/ttrpc, protobuf-es) expects and QuickJS does not have.
 * Imported first by main.ts, because other modules use them while they load (the timers:
 * timers.ts, which needs the event loop).
 */
import * as sys from "sys";
import { AbortController, AbortSignal } from "./abort.ts";
import { CLOCK_MONOTONIC } from "./linux.ts";

class Utf8Encoder {
  readonly encoding = "utf-8";
  encode(text = ""): Uint8Array {
    return new Uint8Array(sys.encodeUtf8(text));
  }
}

class Utf8Decoder {
  readonly encoding = "utf-8";
  readonly fatal: boolean;
  constructor(_label = "utf-8", options: { fatal?: boolean } = {}) {
    this.fatal = options.fatal ?? false;
  }
  decode(bytes?: Uint8Array | ArrayBuffer): string {
    if (bytes === undefined) return "";
    if (this.fatal && !sys.validUtf8(bytes)) throw new TypeError("the text is not valid UTF-8");
    return sys.decodeUtf8(bytes);
  }
}

const target = globalThis as Record<string, unknown>;
target.TextEncoder = Utf8Encoder;
target.TextDecoder = Utf8Decoder;
target.AbortController = AbortController;
target.AbortSignal = AbortSignal;
target.queueMicrotask = sys.queueJob;
target.performance = { now: () => sys.clockUs(CLOCK_MONOTONIC) / 1000 };

// esbuild lowers `using` and `await using` to code that looks these up; QuickJS has neither.
for (const name of ["dispose", "asyncDispose"]) {
  if (!(name in Symbol)) Object.defineProperty(Symbol, name, { value: Symbol.for(`Symbol.${name}`) });
}
