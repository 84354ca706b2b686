/** Makes the template that the machines of e2e tests start from, unless it is there: the preparation of their lane. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assertSetUp, built } from "./paths.ts";
import { runOk } from "./run.ts";
import { writeShimConfig } from "./shim-config.ts";

assertSetUp();
const dir = mkdtempSync(join(tmpdir(), "caisson-test-"));
try {
  const config = join(dir, "configuration.toml");
  writeShimConfig(config);
  const { stderr } = await runOk([join(built.bin, "shim"), "factory", "init", "--config", config]);
  process.stdout.write(stderr);
} finally {
  rmSync(dir, { recursive: true });
}
