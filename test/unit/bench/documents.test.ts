import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type Budget, budgets, budgetTable, budgetValue } from "../../../bench/budgets.ts";
import { compact, documents, keep, withBudgets, withFigures } from "../../../bench/documents.ts";
import type { HostFacts } from "../../../bench/host-facts.ts";
import { labelOf, makeReport, readReport, writeReport } from "../../../bench/report.ts";
import type { Measurement } from "../../../bench/suite.ts";
import { repositoryRoot } from "../../harness/paths.ts";

const report = (value: number) =>
  makeReport("fs", { node: "v20", load: 0.1 }, [{ name: "write", unit: "MiB/s", values: [value] }]);

test("withFigures() appends a section, and replaces the figures of that suite and nothing else", () => {
  const first = withFigures("# Performance\n\nWords.\n", report(10));
  assert.match(
    first,
    /^# Performance\n\nWords\.\n\n## Figures of the suite fs\n\n<!-- figures of fs: made by/,
  );
  assert.match(first, /node: v20, load: 0\.1\n\n\| measure /);
  const edited = `${first}\nWhat it says.\n`;
  assert.equal(withFigures(edited, report(10)), edited, "equal figures change nothing");
  const second = withFigures(edited, report(20));
  assert.match(second, /\| write \| 20\.0 \|/);
  assert.doesNotMatch(second, /\| 10\.0 \|/);
  assert.ok(second.endsWith("\nWhat it says.\n"));
  assert.equal(withFigures(second, report(10)), edited);
});

test("a result of the lab stands beside that of the machine itself", () => {
  const here = withFigures("# Performance\n", report(10));
  const there = { ...report(20), host: { lab: "debian13" } };
  const both = withFigures(here, there);
  assert.ok(both.startsWith(here.trimEnd()));
  assert.match(both, /<!-- figures of fs-debian13: made by .*\n\nlab: debian13\n\n\| measure /);
});

test("a kept result has every value to a thousandth, a line for each measure", () => {
  const text = compact({ ...report(1.23456), host: { node: "v20", kernel: "6.1.0-56-cloud-amd64" } });
  assert.deepEqual(JSON.parse(text), {
    suite: "fs",
    host: { node: "v20", kernel: "6.1.0" },
    results: [{ name: "write", unit: "MiB/s", values: [1.235] }],
  });
  assert.equal(text.split("\n").filter((line) => line.includes('"name"')).length, 1);
});

test("every kept result is in its compact form, under its own name", () => {
  const dir = join(repositoryRoot, "bench/results");
  for (const name of readdirSync(dir)) {
    const kept = readReport(join(dir, name));
    assert.equal(readFileSync(join(dir, name), "utf8"), compact(kept), name);
    assert.equal(name, `${labelOf(kept)}.json`);
  }
});

interface Results {
  /** The repository, and its two commits. */
  readonly dir: string;
  readonly first: string;
  readonly second: string;
  /** Writes a result to keep. @returns its path */
  fresh(host: HostFacts, value: number, suite?: string): string;
  /** The value of a kept result. */
  kept(name: string): number | undefined;
}

function withResults(body: (results: Results) => void): void {
  const dir = mkdtempSync(join(tmpdir(), "caisson-keep-"));
  const git = (...args: string[]) => execFileSync("git", ["-C", dir, ...args], { encoding: "utf8" }).trim();
  const commit = () => {
    const who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgSign=false"];
    git(...who, "commit", "--quiet", "--allow-empty", "--message", "x");
    return git("rev-parse", "--short", "HEAD");
  };
  try {
    git("init", "--quiet");
    body({
      dir,
      first: commit(),
      second: commit(),
      fresh(host, value, suite = "fs") {
        const file = join(dir, `fresh-${suite}.json`);
        writeReport(file, { ...report(value), suite, host });
        return file;
      },
      kept: (name) => readReport(join(dir, "bench/results", name)).results[0]?.values[0],
    });
  } finally {
    rmSync(dir, { recursive: true });
  }
}

test("keep() lets no result take the place of one of a later commit, and says what to do", () => {
  withResults(({ dir, first, second, fresh, kept }) => {
    keep([fresh({ commit: first }, 10)], dir);
    keep([fresh({ commit: second }, 20)], dir);
    assert.throws(
      () => keep([fresh({ commit: first }, 30)], dir),
      new RegExp(
        `fresh-fs.json is of ${first}, .*results/fs.json of the later ${second}: measure again, .*remove`,
      ),
    );
    assert.equal(kept("fs.json"), 20);
    keep([fresh({ commit: second }, 40)], dir);
    assert.equal(kept("fs.json"), 40, "the same commit");
    keep([fresh({ commit: "unknown" }, 50)], dir);
    assert.equal(kept("fs.json"), 50, "nothing is known of this commit");
  });
});

test("keep() writes nothing when one of several results is refused", () => {
  withResults(({ dir, first, second, fresh, kept }) => {
    keep([fresh({ commit: second }, 20)], dir);
    const files = [fresh({ commit: second }, 1, "stdio"), fresh({ commit: first }, 10)];
    assert.throws(() => keep(files, dir), /fresh-fs.json is of/);
    assert.throws(() => kept("stdio.json"), /ENOENT/);
  });
});

test("keep() keeps a result of the lab beside that of the machine itself", () => {
  withResults(({ dir, first, second, fresh, kept }) => {
    keep([fresh({ commit: second }, 20)], dir);
    keep([fresh({ commit: first, lab: "debian13" }, 10)], dir);
    assert.deepEqual([kept("fs.json"), kept("fs-debian13.json")], [20, 10]);
  });
});

test("withBudgets() wants its marks", () => {
  assert.throws(() => withBudgets("# Specification\n", new Map()), /no marks/);
});

test("a budget is met up to its limit, in its unit, and a ratio divides the medians", () => {
  const size: Budget = { what: "size", limit: 2, unit: "MB", suite: "s", measure: "bytes" };
  const ratio: Budget = { what: "r", limit: 2, unit: "×", suite: "s", measure: "ours", over: "theirs" };
  const result = makeReport("s", {}, [
    { name: "bytes", unit: "bytes", values: [2_000_000] },
    { name: "ours", unit: "ms", values: [10, 20, 90] },
    { name: "theirs", unit: "ms", values: [8] },
  ]);
  assert.equal(budgetValue(size, result), 2);
  assert.equal(budgetValue(ratio, result), 2.5);
});

test("the table says of each budget whether it is met, and of what was not measured that it was not", () => {
  const rowWith = (results: readonly Measurement[], start: string) => {
    const report = makeReport("memory", { commit: "abc1234" }, results);
    const rows = budgetTable(new Map([["memory", report]])).split("\n");
    assert.equal(rows.length, 2 + budgets.length);
    return rows.find((line) => line.startsWith(`| ${start}`)) ?? "";
  };
  const used = (...values: number[]): Measurement[] => [{ name: "guest: used", unit: "MiB", values }];
  assert.match(
    rowWith(used(19.96, 20, 30), "guest memory used"),
    /\| 20 MiB \| .*guest: used \| 20\.0 MiB \| yes \| 3 \| abc1234 \|$/,
  );
  assert.match(rowWith(used(20.04), "guest memory used"), /\| 20\.0 MiB \| no \| 1 \| abc1234 \|$/);
  assert.match(rowWith(used(1), "initrd"), /\| not measured \|( {2}\|){3}$/, "no result of the suite");
  assert.match(rowWith(used(1), "agent's resident"), /\| not measured \|( {2}\|){3}$/, "no such measure");
});

test("the table says of a ratio of how many runs both its measures are", () => {
  const rowWith = (floors: readonly number[]) => {
    const report = makeReport("boot", {}, [
      { name: "QEMU start to agent hello", unit: "ms", values: [1, 1] },
      { name: "floor (QEMU start to power-off by init)", unit: "ms", values: floors },
    ]);
    const rows = budgetTable(new Map([["boot", report]])).split("\n");
    return rows.find((line) => line.startsWith("| QEMU start to hello, over the floor")) ?? "";
  };
  assert.match(rowWith([1, 1]), /\| yes \| 2 \|/);
  assert.match(rowWith([1, 1, 1]), /\| yes \| 2, 3 \|/);
});

test("docs/performance.md and docs/SPECIFICATION.md say what the kept results say", () => {
  for (const { path, is, ought } of documents()) assert.equal(is, ought, `${path}: npm run bench -- docs`);
});
