/** Figures named "WHAT, SUBJECT" as a table in Markdown: a row per figure, a column per subject. */
import { summarize } from "./statistics.ts";
import type { Measurement } from "./suite.ts";

const TABLE_UNIT: Readonly<Partial<Record<Measurement["unit"], string>>> = { us: "µs" };

/** Each cell is "median (min–max)"; "n/a" where a subject has no such figure. */
export function subjectTable(measurements: readonly Measurement[], subjects: readonly string[]): string {
  const rows = new Map<string, Map<string, string>>();
  for (const { name, unit, values } of measurements) {
    const at = name.lastIndexOf(", ");
    const what = `${name.slice(0, at)}, ${TABLE_UNIT[unit] ?? unit}`;
    const { median, min, max } = summarize(values);
    const [middle, least, most] = [median, min, max].map((value) => value.toFixed(0));
    const row = rows.get(what) ?? new Map<string, string>();
    rows.set(what, row.set(name.slice(at + 2), `${middle} (${least}–${most})`));
  }
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [
    line(["measure", ...subjects]),
    line(["measure", ...subjects].map(() => "---")),
    ...[...rows].map(([what, row]) => line([what, ...subjects.map((subject) => row.get(subject) ?? "n/a")])),
  ].join("\n");
}
