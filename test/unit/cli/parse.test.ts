/** Command lines: what is taken, and what a person is told who got one wrong. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseCommandLine, tryHelp, UsageError } from "../../../src/cli/index.ts";
import { shimProgram } from "../../../src/operator/program.ts";

const parse = (...argv: string[]) => {
  const invocation = parseCommandLine(shimProgram, argv);
  assert.equal(invocation.kind, "run");
  return invocation.kind === "run"
    ? { name: invocation.command.name, args: invocation.arguments }
    : assert.fail();
};

test("a command line of its own follows the operands, behind -- or without it", () => {
  for (const argv of [
    ["exec", "-t", "--env", "A=b", "web", "--", "ls", "-l", "--", "x"],
    ["exec", "-t", "-e", "A=b", "web", "ls", "-l", "--", "x"],
  ]) {
    const { args } = parse(...argv);
    assert.deepEqual(args.operands, ["web"]);
    assert.deepEqual(args.rest, ["ls", "-l", "--", "x"]);
    assert.deepEqual([args.flag("tty"), args.values("env")], [true, ["A=b"]]);
  }
  assert.deepEqual(parse("exec", "web").args.rest, []);
});

test("commands of two words, and old names of commands, are found", () => {
  assert.equal(parse("config", "show", "--changed").name, "config show");
  assert.equal(parse("--show-default-config-paths").name, "config paths");
  assert.equal(parse("ps", "-q").name, "list");
});

test("help is found wherever people try it", () => {
  for (const argv of [["help"], ["--help"], ["-h"], ["help", "exec"], ["exec", "--help"], ["config", "-h"]])
    assert.equal(parseCommandLine(shimProgram, argv).kind, "help", argv.join(" "));
});

for (const [argv, text] of [
  [[], /which command\? list, exec/],
  [["lst"], /no command "lst"; did you mean list\?/],
  [["exce", "web"], /no command "exce"; did you mean exec\?/],
  [["config"], /config takes one of paths, show, check/],
  [["config", "shw"], /config takes one of paths, show, check, not "shw"/],
  [["list", "--jsn"], /list: Unknown option '--jsn'; did you mean --json\?/],
  [["exec"], /exec takes ID \[-- CMD\.\.\.\]; none were given/],
  [["gc", "x"], /gc takes no operands; 1 was given/],
  [["logs", "a", "b"], /logs takes ID; 2 were given/],
  [["logs", "a", "--tail"], /--tail/],
] as const) {
  test(`"shim ${argv.join(" ")}" is wrong usage, and says what is right`, () => {
    assert.throws(
      () => parseCommandLine(shimProgram, argv),
      (error) => error instanceof UsageError && text.test(error.message),
    );
  });
}

test("the command whose help is worth a look is known where its options are wrong", () => {
  assert.equal(tryHelp(shimProgram, ["config", "show", "--nope"]), "Try: shim config show --help\n");
  assert.equal(tryHelp(shimProgram, ["lst"]), "Try: shim --help\n");
});

test("numbers and choices outside of what is allowed are refused with what is", () => {
  const { args } = parse("stats", "--interval", "x");
  assert.throws(
    () => args.number("interval", 2, 0.2, 3600),
    /--interval takes a number from 0.2 to 3600, not "x"/,
  );
  const logs = parse("logs", "a", "--level", "loud").args;
  assert.throws(() => logs.choice("level", ["info", "warn"]), /--level takes info, warn, not "loud"/);
});
