/** How often the calls of a service were made, how long they took and how many failed. */
import type { CallContext, ServiceRegistration } from "../ttrpc/service.ts";

/** Upper bounds of the histogram, in seconds. A create boots a machine: seconds under software emulation. */
export const CALL_BOUNDS_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

export interface MethodStats {
  readonly method: string;
  count: number;
  failed: number;
  seconds: number;
  /** Cumulative, one per bound. */
  readonly buckets: number[];
}

/** Calls that last as long as what they wait for. */
const NOT_MEASURED = new Set(["Wait", "WaitSandbox"]);

export class CallStats {
  readonly #methods = new Map<string, MethodStats>();

  get methods(): readonly MethodStats[] {
    return [...this.#methods.values()];
  }

  /** The same service with its calls measured. */
  measured(service: ServiceRegistration): ServiceRegistration {
    const methods = [...service.methods].map(([name, handler]) => {
      if (NOT_MEASURED.has(name)) return [name, handler] as const;
      const measuredHandler = async (payload: Uint8Array, context: CallContext) => {
        const startedAt = performance.now();
        let ok = false;
        try {
          const answer = await handler(payload, context);
          ok = true;
          return answer;
        } finally {
          this.#add(name, (performance.now() - startedAt) / 1000, ok);
        }
      };
      return [name, measuredHandler] as const;
    });
    return { name: service.name, methods: new Map(methods) };
  }

  #add(method: string, seconds: number, ok: boolean): void {
    let stats = this.#methods.get(method);
    if (stats === undefined) {
      stats = { method, count: 0, failed: 0, seconds: 0, buckets: CALL_BOUNDS_SECONDS.map(() => 0) };
      this.#methods.set(method, stats);
    }
    stats.count += 1;
    stats.seconds += seconds;
    if (!ok) stats.failed += 1;
    for (const [index, bound] of CALL_BOUNDS_SECONDS.entries()) {
      if (seconds <= bound) stats.buckets[index] = (stats.buckets[index] ?? 0) + 1;
    }
  }
}
