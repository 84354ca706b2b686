/** Figures named "WHAT, SUBJECT" as a table in Markdown: a row per figure, a column per subject. */
import { summarize } from "./statistics.ts";
import type { Measurement } from "./suite.ts";

const TABLE_UNIT: Readonly<Partial<Record<Measurement["unit"], string>>> = { us: "µs" };

/** Each cell is "median, p99 (min–max)"; "n/a" where a subject has no such figure. */
export function subjectTable(measurements: readonly Measurement[], subjects: readonly string[]): string {
  const rows = new Map<string, Map<string, string>>();
  for (const { name, unit, values } of measurements) {
    const at = name.lastIndexOf(", ");
    const what = `${name.slice(0, at)}, ${TABLE_UNIT[unit] ?? unit}`;
    const { median, p99, min, max } = summarize(values, unit);
    const [middle, worst, least, most] = [median, p99, min, max].map((value) => value.toFixed(0));
    const row = rows.get(what) ?? new Map<string, string>();
    rows.set(what, row.set(name.slice(at + 2), `${middle}, ${worst} (${least}–${most})`));
  }
  const header = ["median, p99 (range)", ...subjects];
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [
    line(header),
    line(header.map(() => "---")),
    ...[...rows].map(([what, row]) => line([what, ...subjects.map((subject) => row.get(subject) ?? "n/a")])),
  ].join("\n");
}
