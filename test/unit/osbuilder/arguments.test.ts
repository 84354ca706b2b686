import assert from "node:assert/strict";
import { test } from "node:test";
import {
  parseCommandLine,
  parseSourceDateEpoch,
  parseWith,
  UsageError,
} from "../../../osbuilder/arguments.ts";
import { commandHelp, commands, programHelp } from "../../../osbuilder/commands.ts";

test("parseCommandLine() reads options, short ones and repeated ones", () => {
  const invocation = parseCommandLine(["generate", "-c", "--module", "a", "--module=b", "--agent", "/x"]);
  assert.equal(invocation.kind, "run");
  if (invocation.kind !== "run") return;
  assert.equal(invocation.command.name, "generate");
  assert.equal(invocation.arguments.flag("check"), true);
  assert.equal(invocation.arguments.flag("json"), false);
  assert.deepEqual(invocation.arguments.values("module"), ["a", "b"]);
  assert.equal(invocation.arguments.value("agent"), "/x");
  assert.equal(invocation.arguments.value("image-dir"), undefined);
});

for (const argv of [
  [],
  ["nonsense"],
  ["generate", "--nonsense"],
  ["generate", "extra"],
  ["show"],
  ["generate", "--agent"],
]) {
  test(`parseCommandLine() refuses ${JSON.stringify(argv)} as wrong usage`, () => {
    assert.throws(() => parseCommandLine(argv), UsageError);
  });
}

test("parseCommandLine() finds help and version wherever people try them", () => {
  assert.deepEqual(parseCommandLine(["--help"]), { kind: "help", command: undefined });
  const generate = commands.find((command) => command.name === "generate");
  assert.deepEqual(parseCommandLine(["help", "generate"]), { kind: "help", command: generate });
  assert.deepEqual(parseCommandLine(["generate", "-h"]), { kind: "help", command: generate });
  assert.deepEqual(parseCommandLine(["-V"]), { kind: "version" });
});

test("Arguments.choice() and value() refuse what is not allowed", () => {
  const invocation = parseCommandLine(["generate", "--compress", "rar", "--agent", ""]);
  if (invocation.kind !== "run") throw new Error("not run");
  assert.throws(
    () => invocation.arguments.choice("compress", ["none", "gzip"]),
    /--compress takes none, gzip, not "rar"/,
  );
  assert.throws(() => invocation.arguments.value("agent"), /--agent needs a value/);
});

test("parseWith() splits at the last colon and wants an absolute path", () => {
  assert.deepEqual(parseWith("./a:b:/usr/bin/b"), { source: "./a:b", path: "/usr/bin/b" });
  for (const bad of ["file", "file:", ":/path", "file:relative"])
    assert.throws(() => parseWith(bad), UsageError);
});

test("parseSourceDateEpoch() takes whole seconds and nothing else", () => {
  assert.equal(parseSourceDateEpoch(undefined), 0);
  assert.equal(parseSourceDateEpoch("1700000000"), 1_700_000_000);
  for (const bad of ["-1", "1.5", "yesterday", "4294967296"]) {
    assert.throws(() => parseSourceDateEpoch(bad), { code: "ERR_INVALID_ARGUMENT" });
  }
});

test("help texts name every command and every option, within 110 columns", () => {
  const program = programHelp();
  for (const command of commands) {
    assert.match(program, new RegExp(`^ {2}${command.name}\\b`, "m"));
    const help = commandHelp(command);
    for (const option of command.options) assert.ok(help.includes(`--${option.name}`), option.name);
    for (const line of help.split("\n")) assert.ok(line.length <= 110, line);
  }
});
