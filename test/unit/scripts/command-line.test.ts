/** What the repository's commands say of a command line, and their exit status. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { failure, UsageError, wholeNumber } from "../../../scripts/command-line.ts";
import { repositoryRoot } from "../../harness/paths.ts";

function command(program: string, ...args: string[]) {
  return spawnSync(process.execPath, ["--import", "tsx", program, ...args], {
    cwd: repositoryRoot,
    encoding: "utf8",
    timeout: 60_000,
  });
}

const help: Readonly<Record<string, readonly RegExp[]>> = {
  "bench/main.ts": [/^ {2}net .*needs iperf3/m, /--runs N .*default 5/, /compare A\.json B\.json/],
  "bench/lab.ts": [
    /bench:lab -- all/,
    /--runs N .*default 3/,
    /--max N .*density/,
    /CAISSON_LAB_HOST/,
    /\.cache\/bench\/lab\/SUITE\.json/,
    /bench -- docs FILE/,
  ],
  "scripts/lab.ts": [/npm run lab --/],
  "scripts/package.ts": [/--with-node/, /--output DIR/, /--package-version VERSION/],
};

for (const [program, told] of Object.entries(help)) {
  test(`${program} --help tells how it is used`, () => {
    const { status, stdout } = command(program, "--help");
    assert.equal(status, 0);
    for (const text of told) assert.match(stdout, text);
  });
}

const wrong: readonly (readonly [program: string, args: readonly string[], told: RegExp])[] = [
  ["bench/main.ts", [], /^bench: Usage: /],
  [
    "bench/main.ts",
    ["boot", "nosuch"],
    /^bench: there is no suite "nosuch"; there are all, boot, .*, monitor$/m,
  ],
  ["bench/main.ts", ["boot", "--runs", "0"], /--runs takes a whole number from 1 on/],
  ["bench/main.ts", ["boot", "exec", "--json", "x.json"], /--json takes the result of one suite/],
  ["bench/main.ts", ["compare", "a.json"], /write: npm run bench -- compare A\.json B\.json/],
  [
    "bench/lab.ts",
    ["memory", "nosuch"],
    /^bench: there is no suite "nosuch"; there are all, boot, .*, net$/m,
  ],
  ["bench/lab.ts", ["nosuch", "--max", "few"], /--max takes a whole number from 1 on/],
  ["scripts/lab.ts", ["--nosuch"], /^lab: .*'--nosuch'/],
  ["scripts/package.ts", ["nosuch"], /^package: .*'nosuch'/],
];

for (const [program, args, told] of wrong) {
  test(`${[program, ...args].join(" ")}: what is wrong is named, and the status is 2`, () => {
    const { status, stderr } = command(program, ...args);
    assert.equal(status, 2, stderr);
    assert.match(stderr, told);
  });
}

test("a failure that is none of the command line has the status 1", () => {
  const { status, stderr } = command("bench/main.ts", "compare", "/nowhere/a.json", "/nowhere/b.json");
  assert.equal(status, 1, stderr);
  assert.match(stderr, /^bench: ENOENT/);
});

test("wholeNumber() takes whole numbers from 1 on and nothing else", () => {
  assert.equal(wholeNumber("runs", "12"), 12);
  for (const text of ["", "0", "-1", "1.5", "many"])
    assert.throws(() => wholeNumber("runs", text), UsageError, text);
});

test("failure() tells a wrong command line from what else may fail", () => {
  const told: string[] = [];
  const say = (text: string) => void told.push(text);
  assert.equal(failure("x", new UsageError("write: x Y"), say), 2);
  assert.equal(failure("x", new Error("no room"), say), 1);
  assert.equal(failure("x", "gone", say), 1);
  assert.deepEqual(told, ["x: write: x Y", "x: no room", "x: gone"]);
});
