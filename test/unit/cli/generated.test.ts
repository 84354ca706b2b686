/** What is made from the definitions of the commands is what is committed, and says all of it. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { program as osbuilderProgram } from "../../../osbuilder/commands.ts";
import { generatedFiles } from "../../../scripts/cli-docs.ts";
import { commandHelp, completionScript, manPage, shells } from "../../../src/cli/index.ts";
import { shimProgram } from "../../../src/operator/program.ts";
import { repositoryRoot } from "../../harness/paths.ts";

for (const [path, content] of generatedFiles()) {
  test(`${path} is what scripts/cli-docs.ts writes`, () => {
    assert.equal(readFileSync(join(repositoryRoot, path), "utf8"), content);
  });
}

for (const program of [shimProgram, osbuilderProgram]) {
  test(`help, man page and completion of ${program.name} have every command and every option`, () => {
    const texts = {
      help: program.commands.map((command) => commandHelp(program, command)).join("\n"),
      man: manPage(program, "1").replaceAll("\\-", "-"),
      ...Object.fromEntries(shells.map((shell) => [shell, completionScript(program, shell)])),
    };
    for (const [where, text] of Object.entries(texts)) {
      for (const { name, options } of program.commands) {
        for (const word of name.split(" ")) assert.ok(text.includes(word), `${where} has no ${name}`);
        // fish has long options without their dashes.
        for (const option of options)
          assert.ok(
            text.includes(where === "fish" ? `-l ${option.name}` : `--${option.name}`),
            `${where}: ${name} --${option.name}`,
          );
      }
    }
  });

  test(`help texts of ${program.name} are no wider than a terminal that is wide`, () => {
    for (const command of program.commands)
      for (const line of commandHelp(program, command).split("\n")) assert.ok(line.length <= 120, line);
  });
}

test("every command that prints data has --json", () => {
  /** What a terminal shows, files, text for a shell, a server, and what makes and removes. */
  const without = new Set(["exec", "cp", "completion", "monitor", "factory init", "factory destroy"]);
  for (const { commands } of [shimProgram, osbuilderProgram])
    for (const { name, options } of commands)
      assert.equal(
        options.some((option) => option.name === "json"),
        !without.has(name),
        name,
      );
});

test("docs/cli.md has the exit statuses that the program has", () => {
  const text = readFileSync(join(repositoryRoot, "docs/cli.md"), "utf8");
  const rows = [...text.matchAll(/^\| (\d) \| /gm)].map(([, status]) => status);
  assert.deepEqual(
    rows,
    shimProgram.exitStatuses.map(([status]) => status),
  );
});
