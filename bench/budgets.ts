/** What Caisson may cost: each budget with the measures that it is judged by. */
import { labelOf, markdownRows, medianOf, type Report } from "./report.ts";

export interface Budget {
  readonly what: string;
  /** Not to be exceeded. */
  readonly limit: number;
  readonly unit: "MB" | "MiB" | "ms" | "×";
  /** The suite whose result has the measures. */
  readonly suite: string;
  /** The variant of the lab where it is measured, instead of the machine itself. */
  readonly lab?: string;
  /** The measure, by its name in the suite. */
  readonly measure: string;
  /** The measure that it is divided by, for a budget that is a ratio. */
  readonly over?: string;
}

const BYTES_PER_MB = 1e6;
const DECIMALS: Readonly<Record<Budget["unit"], number>> = { MB: 2, MiB: 1, ms: 0, "×": 2 };

export const budgets: readonly Budget[] = [
  { what: "initrd without extras", limit: 5, unit: "MB", suite: "boot", measure: "initrd" },
  { what: "guest memory used at idle", limit: 20, unit: "MiB", suite: "memory", measure: "guest: used" },
  {
    what: "the same with the kernel of Debian 13",
    limit: 20,
    unit: "MiB",
    suite: "memory",
    lab: "debian13",
    measure: "guest: used",
  },
  { what: "agent's program", limit: 2, unit: "MB", suite: "boot", measure: "agent" },
  {
    what: "RuntimeClass overhead: host memory of one more idle pod, its guest's kernel and agent included",
    limit: 160,
    unit: "MiB",
    suite: "density",
    measure: "all four, each",
  },
  {
    what: "QEMU start to hello, over the floor",
    limit: 1.25,
    unit: "×",
    suite: "boot",
    measure: "QEMU start to agent hello",
    over: "floor (QEMU start to power-off by init)",
  },
  {
    what: "cold start, the shim's own share: not QEMU, firmware, guest kernel",
    limit: 300,
    unit: "ms",
    suite: "boot",
    measure: "the shim's own share of a cold start",
  },
  {
    what: "`start` for a container of a running sandbox",
    limit: 15,
    unit: "ms",
    suite: "boot",
    measure: "`start` for a container of a running sandbox",
  },
  {
    what: "exec in a running container by ctr, over runc",
    limit: 2,
    unit: "×",
    suite: "boot",
    measure: "exec round trip (ctr task exec true)",
    over: "exec round trip, runc",
  },
  {
    what: "exec in a running container by the Task API alone, over runc",
    limit: 2,
    unit: "×",
    suite: "exec",
    measure: "exec of true to its deletion, caisson",
    over: "exec of true to its deletion, runc",
  },
];

/** The medians' value in the budget's unit. @throws when the result lacks a measure. */
export function budgetValue({ unit, measure, over }: Budget, report: Report): number {
  const value = medianOf(report, measure) / (unit === "MB" ? BYTES_PER_MB : 1);
  return over === undefined ? value : value / medianOf(report, over);
}

/** All budgets as a table in Markdown. @param reports by their labels */
export function budgetTable(reports: ReadonlyMap<string, Report>): string {
  const rows = budgets.map((budget) => {
    const { what, limit, unit, suite, lab, measure, over } = budget;
    const command = lab === undefined ? `bench -- ${suite}` : `bench:lab -- ${suite}`;
    const by = `\`${command}\`: ${measure}${over === undefined ? "" : `, over ${over}`}`;
    const report = reports.get(labelOf({ suite, host: lab === undefined ? {} : { lab } }));
    if (report === undefined) return [what, `${limit} ${unit}`, by, "not measured", ""];
    const value = budgetValue(budget, report);
    const shown = `${value.toFixed(DECIMALS[unit])} ${unit}`;
    return [what, `${limit} ${unit}`, by, shown, value <= limit ? "yes" : "no"];
  });
  const header = ["what", "budget", "measured by", "value", "met"];
  return markdownRows([header, header.map(() => "---"), ...rows]);
}
