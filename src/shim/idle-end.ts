/**
 * Tells when a shim may have been forgotten: when no call was made for a while, and at once when the last call ended
 * without its caller, or its caller hung up behind it. containerd was killed then; the next one finds our socket and,
 * where there is no task behind it, keeps both for ever.
 */
import type { CallContext, ServiceRegistration } from "../ttrpc/service.ts";

export class IdleEnd {
  readonly #limitMs: number;
  readonly #expired: () => void;
  #running = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param expired called after each `limitMs` in which no call ran, the first counted from now on, and as above. */
  constructor(limitMs: number, expired: () => void) {
    this.#limitMs = limitMs;
    this.#expired = expired;
    this.#wait();
  }

  /** Somebody has hung up. */
  hungUp(): void {
    if (this.#running === 0) this.#expired();
  }

  /** The same service, its calls noted. */
  watched(service: ServiceRegistration): ServiceRegistration {
    const methods = [...service.methods].map(([name, handler]) => {
      const watchedHandler = async (payload: Uint8Array, context: CallContext) => {
        clearTimeout(this.#timer);
        this.#running += 1;
        try {
          return await handler(payload, context);
        } finally {
          this.#running -= 1;
          if (this.#running === 0) {
            if (context.signal.aborted) this.#expired();
            this.#wait();
          }
        }
      };
      return [name, watchedHandler] as const;
    });
    return { name: service.name, methods: new Map(methods) };
  }

  #wait(): void {
    this.#timer = setTimeout(() => {
      this.#expired();
      this.#wait();
    }, this.#limitMs);
  }
}
