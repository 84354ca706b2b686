/** Every acquire and every fail point is in the fault matrix. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { failPoints } from "../../../src/base/failpoint.ts";
import { acquires, elsewhere } from "../../faults/acquires.ts";
import { recoverySteps, steps } from "../../faults/steps.ts";
import { repositoryRoot } from "../../harness/paths.ts";

/** Commands of the operator, and the rehearsal of the build, acquire nothing for a sandbox that containerd runs. */
const others = /^src\/(operator\/|shim\/rehearse-boot\.ts$|base\/undo\.ts$)/;
const sources = readdirSync(join(repositoryRoot, "src"), { recursive: true })
  .map((file) => join("src", String(file)))
  .filter((file) => file.endsWith(".ts") && !others.test(file))
  .map((file) => ({ file, text: readFileSync(join(repositoryRoot, file), "utf8") }));

/** Registrations with an undo stack whose name is neither a literal nor begins as one, with the names they get. */
const named: Readonly<Record<string, readonly string[]>> = {
  "src/runtime/machine-network.ts what": [
    "connections from the namespace's localhost",
    "following the pod's network",
  ],
};

function acquiresIn({ file, text }: { file: string; text: string }): string[] {
  const calls = text.matchAll(/\.(?:use|adopt|defer)\(\s*(?:"([^"]+)"|`([^`$]*)\$\{|(\w+))/g);
  return [...calls].flatMap(([, literal, prefix, variable]) => {
    const name = literal ?? prefix?.trim();
    if (name !== undefined && name !== "") return [name];
    const names = named[`${file} ${variable ?? ""}`];
    assert.ok(
      names,
      `${file}: the name of the acquire "${variable ?? prefix}" does not begin with a literal`,
    );
    for (const it of names) assert.ok(text.includes(it), `${file} has no acquire "${it}" any more`);
    return names;
  });
}

test("every acquire of a sandbox fails in the fault matrix, or the table says where else", () => {
  const found = new Set(sources.flatMap(acquiresIn));
  const listed = [...acquires.map(({ name }) => name), ...Object.keys(elsewhere)];
  assert.deepEqual([...found].sort(), listed.sort());
});

test("every fail point is passed somewhere and is a step of the matrix", () => {
  const inMatrix = new Set<string>([...steps.map(({ point }) => point ?? ""), ...recoverySteps]);
  const text = sources.map((source) => source.text).join("\n");
  for (const name of Object.keys(failPoints)) {
    assert.ok(inMatrix.has(name), `${name} is no step of the matrix`);
    assert.match(
      text,
      new RegExp(`(failPoint|passing)\\("${name.replace(".", "\\.")}"`),
      `${name} is passed nowhere`,
    );
  }
});
