/** Types of the globals that web-globals.ts defines; the guest has neither the DOM nor Node. */
interface AbortSignalEvent {
  readonly type: "abort";
}
interface AbortSignal {
  readonly aborted: boolean;
  readonly reason: unknown;
  throwIfAborted(): void;
  addEventListener(
    type: "abort",
    listener: (event: AbortSignalEvent) => void,
    options?: { once?: boolean },
  ): void;
  removeEventListener(type: "abort", listener: (event: AbortSignalEvent) => void): void;
}
declare const AbortSignal: {
  prototype: AbortSignal;
  abort(reason?: unknown): AbortSignal;
  any(signals: Iterable<AbortSignal>): AbortSignal;
  timeout(delayMs: number): AbortSignal;
};
interface AbortController {
  readonly signal: AbortSignal;
  abort(reason?: unknown): void;
}
declare const AbortController: { prototype: AbortController; new (): AbortController };

interface TextEncoder {
  encode(text?: string): Uint8Array<ArrayBuffer>;
}
declare const TextEncoder: { prototype: TextEncoder; new (): TextEncoder };
interface TextDecoder {
  decode(bytes?: Uint8Array | ArrayBuffer): string;
}
declare const TextDecoder: {
  prototype: TextDecoder;
  new (label?: string, options?: { fatal?: boolean }): TextDecoder;
};

interface TimerHandle {
  readonly dueMs: number;
}
declare function setTimeout(
  run: (...values: never[]) => void,
  delayMs?: number,
  ...values: unknown[]
): TimerHandle;
declare function clearTimeout(timer: TimerHandle | undefined): void;
declare function queueMicrotask(job: () => void): void;
declare const performance: { now(): number };

interface SymbolConstructor {
  readonly dispose: unique symbol;
  readonly asyncDispose: unique symbol;
}
