/** Runs the garbage collection of this host and prints what went; `--dry-run` only prints what would go. */
import { collectGarbage, describeGarbage } from "../../src/shim/gc.ts";
import { stderrLog } from "../../src/shim/stderr-log.ts";

const dryRun = process.argv.includes("--dry-run");
const report = await collectGarbage({ dryRun, log: stderrLog });
console.log(describeGarbage(report, dryRun).join("\n"));
