/**
 * What docs/performance.md and docs/SPECIFICATION.md say in figures, made from the results that the repository keeps in
 * bench/results: one file for each suite, and one for each suite and variant of the lab.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { repositoryRoot } from "../test/harness/paths.ts";
import { budgetTable } from "./budgets.ts";
import { factLines, labelOf, markdownTable, type Report, readReport } from "./report.ts";
import { netSuite } from "./suites/net.ts";

const RESULTS = "bench/results";
const PERFORMANCE = join(repositoryRoot, "docs/performance.md");
const SPECIFICATION = join(repositoryRoot, "docs/SPECIFICATION.md");

/** The kept results by their labels. */
export function keptReports(): ReadonlyMap<string, Report> {
  const dir = join(repositoryRoot, RESULTS);
  const files = existsSync(dir) ? readdirSync(dir).sort() : [];
  const reports = files.map((file) => readReport(join(dir, file)));
  return new Map(reports.map((report) => [labelOf(report), report]));
}

/**
 * Keeps `files` as the results of their suites, those of the lab beside them.
 * @throws when one is no result, or older than the one in its place; nothing is written then
 */
export function keep(files: readonly string[], repository = repositoryRoot): void {
  const dir = join(repository, RESULTS);
  const fresh = files.map((file) => {
    const report = readReport(file);
    return { file, report, place: join(dir, `${labelOf(report)}.json`) };
  });
  const refused = fresh.flatMap(({ file, report, place }) => {
    if (!existsSync(place)) return [];
    const commit = String(report.host.commit);
    const kept = String(readReport(place).host.commit);
    if (!isBefore(commit, kept, repository)) return [];
    const names = `${file} is of ${commit}, and ${relative(repository, place)} of the later ${kept}`;
    return [`${names}: measure again, name only the other files, or remove the kept one first`];
  });
  if (refused.length > 0) throw new Error(refused.join("\n"));
  mkdirSync(dir, { recursive: true });
  for (const { report, place } of fresh) writeFileSync(place, compact(report));
}

/** Whether the commit `a` is an ancestor of `b`, not `b` itself. Of what git does not know, neither is. */
function isBefore(a: string, b: string, repository: string): boolean {
  const isAncestor = (...commits: string[]) =>
    spawnSync("git", ["-C", repository, "merge-base", "--is-ancestor", ...commits]).status === 0;
  return isAncestor(a, b) && !isAncestor(b, a);
}

/**
 * A line for the host and one for each measure, without what follows from the values; values to a thousandth. Of the
 * host's kernel the version, without who built it.
 */
export function compact({ suite, host: { kernel, ...facts }, results }: Report): string {
  const host = { ...facts, ...(kernel !== undefined && { kernel: String(kernel).split("-")[0] }) };
  const lines = results.map(({ name, unit, values }) =>
    JSON.stringify({ name, unit, values: values.map((value) => Number(value.toFixed(3))) }),
  );
  const head = `"suite": ${JSON.stringify(suite)},\n"host": ${JSON.stringify(host)},\n"results": [`;
  return `{\n${head}\n${lines.join(",\n")}\n]\n}\n`;
}

/** Both documents, as they stand and as they ought to be. */
export function documents(): readonly { path: string; is: string; ought: string }[] {
  const reports = keptReports();
  const performance = readFileSync(PERFORMANCE, "utf8");
  const specification = readFileSync(SPECIFICATION, "utf8");
  return [
    { path: PERFORMANCE, is: performance, ought: [...reports.values()].reduce(withFigures, performance) },
    { path: SPECIFICATION, is: specification, ought: withBudgets(specification, reports) },
  ];
}

/** Writes the documents that differ from what they ought to be. */
export function writeDocuments(): void {
  for (const { path, is, ought } of documents()) if (is !== ought) writeFileSync(path, ought);
}

/** `document` with the figures of `report` at their marks, or at the end under a heading of their own. */
export function withFigures(document: string, report: Report): string {
  const label = labelOf(report);
  const table = report.suite === netSuite.name ? netSuite.table?.(report.results) : undefined;
  const text = `${factLines(report.host).join(", ")}\n\n${table ?? markdownTable(report)}`;
  const name = `figures of ${label}`;
  return (
    replaced(document, name, text) ??
    `${document.trimEnd()}\n\n## Figures of the suite ${label}\n\n${marked(name, text)}\n`
  );
}

/** `document` with the table of budgets at its marks. @throws when it has none. */
export function withBudgets(document: string, reports: ReadonlyMap<string, Report>): string {
  const text = replaced(document, "budgets", budgetTable(reports));
  if (text === undefined) throw new Error("the specification has no marks for the budgets");
  return text;
}

const begin = (name: string) => `<!-- ${name}: made by npm run bench -- docs -->`;
const end = (name: string) => `<!-- end of the ${name} -->`;
const marked = (name: string, text: string) => [begin(name), "", text, "", end(name)].join("\n");

function replaced(document: string, name: string, text: string): string | undefined {
  const from = document.indexOf(begin(name));
  const to = document.indexOf(end(name));
  if (from < 0 || to < from) return undefined;
  return document.slice(0, from) + marked(name, text) + document.slice(to + end(name).length);
}
