/** The matrix as a table in Markdown: a row per step, a column per fault. */
import type { Outcome } from "./scenario.ts";
import { faults } from "./scenario.ts";
import { acquireSteps, steps } from "./steps.ts";

/** Two tables: faults at steps, and the specials with a row each. Those of which nothing ran are left out. */
export function matrixTable(outcomes: readonly Outcome[]): string[] {
  const columns: readonly string[] = faults;
  const atSteps = outcomes.filter(({ fault }) => columns.includes(fault));
  const rows = [...steps, ...acquireSteps].flatMap(({ name }) => {
    const row = atSteps.filter(({ step }) => step === name);
    if (row.length === 0) return [];
    const cells = columns.map((fault) => row.find((outcome) => outcome.fault === fault));
    return [[name, ...cells.map((outcome) => (outcome === undefined ? "" : cellText(outcome)))]];
  });
  const others = outcomes
    .filter(({ fault }) => !columns.includes(fault))
    .map((outcome) => [outcome.fault, outcome.step, cellText(outcome)]);
  return [
    ...(rows.length === 0 ? [] : markdown(["step", ...columns], rows)),
    ...(rows.length === 0 || others.length === 0 ? [] : [""]),
    ...(others.length === 0 ? [] : markdown(["fault", "when", "outcome"], others)),
  ];
}

/** "ok 0.4 s": after which time containerd showed what had happened; or what went wrong. */
function cellText({ problems, shownMs }: Outcome): string {
  if (problems.length === 0) return `ok ${(shownMs / 1000).toFixed(1)} s`;
  const leaked = problems.filter((text) => text.startsWith("leaked "));
  const hung = problems.filter((text) => text.startsWith("hung"));
  return [...leaked, ...hung, ...problems.filter((text) => !leaked.includes(text) && !hung.includes(text))]
    .join("; ")
    .replaceAll("|", "/");
}

function markdown(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)];
}
