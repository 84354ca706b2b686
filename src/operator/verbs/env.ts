/** `shim env`: what a new sandbox would be made with. */
import type { Arguments } from "../../cli/index.ts";
import { loadConfig } from "../../config/index.ts";
import { environment } from "../environment.ts";
import { type OperatorHost, printJson } from "../host.ts";
import { absolutePath } from "./config.ts";

export async function runEnv(args: Arguments, host: OperatorHost): Promise<number> {
  const file = args.value("config");
  const config = await loadConfig(file === undefined ? {} : { path: absolutePath(file) });
  const tree = await environment(config, host);
  if (args.flag("json")) {
    printJson(host, tree);
    return 0;
  }
  const { stringify } = await import("smol-toml");
  host.stdout(`${stringify(tree)}\n`);
  return 0;
}
