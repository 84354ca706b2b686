/** A campaign's results as text. */
import { randomInt } from "node:crypto";
import type { Failure, Summary } from "./session.ts";

export const newSeed = (): number => randomInt(2 ** 32);

export function summaryLine({ target, iterations, kinds, accepted, refused, seconds }: Summary): string {
  const rate = Math.round(iterations / Math.max(seconds, 0.001));
  const counts = `${String(iterations).padStart(9)} inputs (${rate}/s)`;
  return `  ok      ${target.padEnd(16)} ${counts}, ${accepted} taken, ${refused} refused, ${kinds} kinds of result`;
}

/** @param saved where the input was kept. */
export function describeFailure({ target, seed, iteration, input, reason }: Failure, saved: string): string {
  const shown = Buffer.from(input.subarray(0, 120)).toString("latin1");
  return [
    `  FAILED  ${target}: ${reason}`,
    `          seed ${seed}, input ${iteration}, ${input.length} bytes: ${JSON.stringify(shown)}`,
    `          kept as ${saved}; again with: npm run fuzz -- ${target} --seconds 0`,
  ].join("\n");
}
