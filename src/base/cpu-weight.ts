/**
 * cpu.shares (2 to 262144, default 1024) as cpu.weight (1 to 10000, default 100): the curve through (2, 1), (1024, 100)
 * and (262144, 10000) that runc 1.3 and crun 1.23 document, 10^((l² + 125 l)/612 − 7/34) with l = log2(shares).
 */
export function sharesToWeight(shares: bigint): number {
  if (shares <= 2n) return 1;
  if (shares >= 262_144n) return 10_000;
  const l = Math.log2(Number(shares));
  // Rounded up, but not for the error of the last binary digit at the exact points.
  return Math.ceil(10 ** ((l * l + 125 * l) / 612 - 7 / 34) - 1e-9);
}
