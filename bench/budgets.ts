/** What Caisson may cost: each budget with the measures that it is judged by. */
import { labelOf, markdownRows, medianOf, type Report, resultOf } from "./report.ts";

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

/** The same QEMU and kernel with an init that powers off at once. */
const FLOOR = "floor (QEMU start to power-off by init)";

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
  {
    what: "agent's resident memory in an idle guest",
    limit: 4,
    unit: "MiB",
    suite: "memory",
    measure: "guest: agent RSS",
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
    over: FLOOR,
  },
  {
    what: "the same with the kernel started",
    limit: 1.25,
    unit: "×",
    suite: "boot",
    measure: "QEMU start to agent hello, kernel started",
    over: FLOOR,
  },
  {
    what: "the whole cold start, over the floor",
    limit: 1.25,
    unit: "×",
    suite: "boot",
    measure: "cold start without containerd",
    over: FLOOR,
  },
  {
    what: "the same with the kernel started",
    limit: 1.25,
    unit: "×",
    suite: "boot",
    measure: "cold start without containerd, kernel started",
    over: FLOOR,
  },
  {
    what: "cold start, the shim's own share: not QEMU, firmware, guest kernel",
    limit: 300,
    unit: "ms",
    suite: "boot",
    measure: "the shim's own share of a cold start",
  },
  {
    what: "the same with the kernel started, whose work from the agent's start on is counted as ours",
    limit: 300,
    unit: "ms",
    suite: "boot",
    measure: "the shim's own share of a cold start, kernel started",
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
    const measures = over === undefined ? [measure] : [measure, over];
    const row = [what, `${limit} ${unit}`, `\`${command}\`: ${measures.join(", over ")}`];
    const report = reports.get(labelOf({ suite, host: lab === undefined ? {} : { lab } }));
    const runs = measures.map((name) => report && resultOf(report, name)?.summary.runs);
    if (report === undefined || runs.includes(undefined)) return [...row, "not measured", "", "", ""];
    const value = budgetValue(budget, report);
    const decimals = unit === "ms" && value < 1 ? 1 : DECIMALS[unit];
    const shown = `${value.toFixed(decimals)} ${unit}`;
    const met = value <= limit ? "yes" : "no";
    return [...row, shown, met, [...new Set(runs)].join(", "), String(report.host.commit ?? "")];
  });
  const header = ["what", "budget", "measured by", "value", "met", "runs", "commit"];
  return markdownRows([header, header.map(() => "---"), ...rows]);
}
