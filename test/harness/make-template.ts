/** The template that the machines of tests and benches start from; as a program, the preparation of the e2e lane. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assertSetUp, built } from "./paths.ts";
import { runOk } from "./run.ts";
import { writeShimConfig } from "./shim-config.ts";

/** Makes it unless it is there. @returns what `shim factory init` said */
export async function provideTestTemplate(): Promise<string> {
  assertSetUp();
  const dir = mkdtempSync(join(tmpdir(), "caisson-test-"));
  try {
    const config = join(dir, "configuration.toml");
    writeShimConfig(config);
    const { stderr } = await runOk([join(built.bin, "shim"), "factory", "init", "--config", config]);
    return stderr;
  } finally {
    rmSync(dir, { recursive: true });
  }
}

if (import.meta.filename === process.argv[1]) process.stdout.write(await provideTestTemplate());
