import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { atLeast, LEAST_NODE } from "../../../src/operator/versions.ts";
import { repositoryRoot } from "../../harness/paths.ts";

interface Manifest {
  readonly engines?: { readonly node?: string };
  readonly dependencies?: Readonly<Record<string, string>>;
}

const manifest = (path: string) => JSON.parse(readFileSync(join(repositoryRoot, path), "utf8")) as Manifest;

test("the least Node is the one of package.json, and enough for every package that is bundled", () => {
  const own = manifest("package.json");
  assert.equal(own.engines?.node, `>=${LEAST_NODE}.0 <25`);
  for (const name of Object.keys(own.dependencies ?? {})) {
    // Of "^18.19.0 || >=20.5.0" the last alternative is the one that is open upwards.
    const least = />=\s*(\d[\d.]*)[^|]*$/.exec(
      manifest(`node_modules/${name}/package.json`).engines?.node ?? "",
    )?.[1];
    if (least !== undefined) assert.ok(atLeast(`${LEAST_NODE}.0`, least), `${name} asks for Node ${least}`);
  }
});
