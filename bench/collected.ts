/** Values by name, in the order in which the names came up. */
import type { Measurement } from "./suite.ts";

export class Collected {
  readonly #measurements = new Map<string, { unit: Measurement["unit"]; values: number[] }>();

  add(name: string, unit: Measurement["unit"], ...values: readonly number[]): void {
    const known = this.#measurements.get(name);
    if (known === undefined) this.#measurements.set(name, { unit, values: [...values] });
    else known.values.push(...values);
  }

  measurements(): Measurement[] {
    return [...this.#measurements].map(([name, rest]) => ({ name, ...rest }));
  }
}
