/** `shim gc`: removes what dead shims left. */
import type { Log } from "../../base/log.ts";
import { silentLog } from "../../base/log.ts";
import type { Arguments } from "../../cli/index.ts";
import { collectGarbage, type Garbage } from "../../shim/gc.ts";
import { type OperatorHost, printJson } from "../host.ts";
import { findSandboxes } from "../sandbox-record.ts";

export async function runGc(args: Arguments, host: OperatorHost): Promise<number> {
  // Says at once when the run directories are closed to us.
  findSandboxes();
  const dryRun = args.flag("dry-run");
  const log: Log = silentLog;
  const { garbage, living } = await collectGarbage({ dryRun, log });
  if (args.flag("json")) printJson(host, { dryRun, garbage, living });
  else {
    for (const one of garbage) host.stdout(describeGarbage(one, dryRun));
    host.stderr(
      `${garbage.length === 0 ? "nothing to remove" : `${garbage.length} ${dryRun ? "would be removed" : "removed"}`}; ${living} sandbox${living === 1 ? " is" : "es are"} in use\n`,
    );
  }
  return garbage.some(({ failures }) => failures.length > 0) ? 1 : 0;
}

function describeGarbage({ kind, path, sandbox, holds, failures }: Garbage, dryRun: boolean): string {
  const name = sandbox === undefined ? kind : `${kind} ${sandbox}`;
  const lines = [`${dryRun ? "would remove" : "removed"} ${name}: ${path}`];
  for (const one of holds) lines.push(`  ${one}`);
  for (const failure of failures) lines.push(`  still there: ${failure}`);
  return `${lines.join("\n")}\n`;
}
