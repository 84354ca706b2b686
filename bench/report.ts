/** Results as files and as text: tables on the terminal and in Markdown, the comparison of two builds. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { HostFacts } from "./host-facts.ts";
import { type Summary, summarize } from "./statistics.ts";
import type { Measurement } from "./suite.ts";

export interface Report {
  readonly suite: string;
  readonly host: HostFacts;
  readonly results: readonly (Measurement & { readonly summary: Summary })[];
}

/** Of the suite, and the lab's variant where it was measured there: no result takes the place of one from another host. */
export const labelOf = ({ suite, host }: Pick<Report, "suite" | "host">): string =>
  host.lab === undefined ? suite : `${suite}-${host.lab}`;

/** Decimals by unit: times to a tenth of a millisecond are noise. */
const decimals: Readonly<Record<Measurement["unit"], number>> = {
  ms: 0,
  us: 0,
  s: 2,
  MiB: 1,
  "MiB/s": 1,
  bytes: 0,
  "Mbit/s": 0,
  "1/s": 0,
  count: 0,
};

export function makeReport(suite: string, host: HostFacts, measurements: readonly Measurement[]): Report {
  const results = measurements.map((it) => ({ ...it, summary: summarize(it.values, it.unit) }));
  return { suite, host, results };
}

export function writeReport(file: string, report: Report): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
}

/** @throws when `file` is no report. */
export function readReport(file: string): Report {
  const value = JSON.parse(readFileSync(file, "utf8")) as Partial<Report>;
  if (typeof value.suite !== "string" || !Array.isArray(value.results))
    throw new Error(`${file} is no result of a bench`);
  return makeReport(value.suite, value.host ?? {}, value.results);
}

const HEADER = ["measure", "median", "p99", "unit", "min", "max", "values"];

/** A figure with as many decimals as its unit deserves. */
export const shown = (value: number, unit: Measurement["unit"]): string => value.toFixed(decimals[unit]);

/** The measure `name`, where the report has it. */
export const resultOf = ({ results }: Report, name: string): Report["results"][number] | undefined =>
  results.find((result) => result.name === name);

/** The median of the measure `name`. @throws when the report has none. */
export function medianOf(report: Report, name: string): number {
  const found = resultOf(report, name);
  if (found === undefined) throw new Error(`the result of the suite ${report.suite} has no "${name}"`);
  return found.summary.median;
}

function rowsOf({ results }: Report): string[][] {
  return results.map(({ name, unit, summary }) => {
    const show = (value: number) => shown(value, unit);
    const { runs, median, p99, min, max } = summary;
    const several = (value: number) => (runs > 1 ? show(value) : "");
    return [name, show(median), several(p99), unit, several(min), several(max), String(runs)];
  });
}

export const textTable = (report: Report): string => aligned([HEADER, ...rowsOf(report)]);

/** The same in Markdown. */
export function markdownTable(report: Report): string {
  const textual = (column: number) => column === 0 || HEADER[column] === "unit";
  return markdownRows([HEADER, HEADER.map((_, i) => (textual(i) ? "---" : "--:")), ...rowsOf(report)]);
}

/** `rows` as lines of a Markdown table. */
export const markdownRows = (rows: readonly (readonly string[])[]): string =>
  rows.map((cells) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`).join("\n");

function aligned(rows: readonly string[][]): string {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  const textual = (column: number) => column === 0 || rows[0]?.[column] === "unit";
  return rows
    .map((row) => {
      const cells = row.map((cell, i) =>
        textual(i) ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0),
      );
      return cells.join("  ").trimEnd();
    })
    .join("\n");
}

export const factLines = (host: HostFacts): string[] =>
  Object.entries(host).map(([name, value]) => `${name}: ${value}`);

/** What B has against A, measure by measure. @throws when they are of different suites */
export function comparison(a: Report, b: Report): string {
  if (a.suite !== b.suite) throw new Error(`one is of ${a.suite}, the other of ${b.suite}`);
  const later = new Map(b.results.map((result) => [result.name, result]));
  const rows = a.results.map(({ name, unit, summary }) => {
    const other = later.get(name)?.summary;
    const show = (value: number | undefined) => (value === undefined ? "" : shown(value, unit));
    const ratio =
      other === undefined || summary.median === 0 ? "" : (other.median / summary.median).toFixed(2);
    const apart = other !== undefined && (other.min > summary.max || other.max < summary.min);
    return [
      name,
      show(summary.median),
      show(other?.median),
      unit,
      ratio,
      show(summary.p99),
      show(other?.p99),
      apart ? "apart" : "",
    ];
  });
  const fresh = b.results.filter(({ name }) => !a.results.some((result) => result.name === name));
  const differing = factLines(b.host).filter((line) => !factLines(a.host).includes(line));
  return [
    aligned([["measure", "A", "B", "unit", "B/A", "p99 A", "p99 B", "ranges"], ...rows]),
    ...fresh.map(({ name }) => `only in B: ${name}`),
    ...(differing.length > 0 ? [`B differs in ${differing.join("; ")}`] : []),
  ].join("\n");
}
