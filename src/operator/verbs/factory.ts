/** `shim factory`: the template from which machines start. */
import { silentLog } from "../../base/log.ts";
import { scaledMs } from "../../base/timeouts.ts";
import { type Arguments, formatBytes, table } from "../../cli/index.ts";
import { type Config, loadConfig } from "../../config/index.ts";
import { templatesDir } from "../../runtime/template.ts";
import { type OperatorHost, printJson } from "../host.ts";
import { makeTemplate } from "../make-template.ts";
import {
  isOutdated,
  listTemplates,
  removeTemplates,
  templateObstacle,
  wantedTemplate,
} from "../templates.ts";
import { absolutePath } from "./config.ts";

export async function runFactoryInit(args: Arguments, host: OperatorHost): Promise<number> {
  const config = await configOf(args);
  const obstacle = templateObstacle(config);
  if (obstacle !== undefined && args.flag("if-enabled")) {
    host.stderr(`nothing to do: ${obstacle}\n`);
    return 0;
  }
  const wanted = await wantedTemplate(config);
  const began = performance.now();
  const seconds = () => `${((performance.now() - began) / 1000).toFixed(1)} s`;
  if (!args.flag("force") && listTemplates(wanted.dir).some(({ key }) => key === wanted.key)) {
    host.stderr(`the template is there: ${wanted.dir}/${wanted.key}\n`);
  } else {
    const path = await makeTemplate(
      {
        ...wanted,
        bootLimitMs: scaledMs(config.agent.dialTimeout * 1000),
        log: silentLog,
        step: (what) => host.stderr(`${what} ... (${seconds()})\n`),
      },
      host.signal,
    );
    const made = listTemplates(wanted.dir).find(({ key }) => key === wanted.key);
    host.stderr(`made ${path}: ${formatBytes(made?.bytes ?? 0)} in ${seconds()}\n`);
  }
  const removed = removeTemplates(wanted.dir, isOutdated);
  if (removed > 0) host.stderr(`removed ${removed} that no machine can use any more\n`);
  return 0;
}

export async function runFactoryStatus(args: Arguments, host: OperatorHost): Promise<number> {
  const config = await configOf(args);
  const { dir, key: wanted } = await wantedTemplate(config);
  const templates = listTemplates(dir).map((one) => ({ ...one, used: one.key === wanted }));
  const ready = templates.some(({ used }) => used);
  if (args.flag("json")) {
    printJson(host, { dir, ready, wanted, templates });
    return ready ? 0 : 1;
  }
  if (templates.length > 0) {
    const rows = templates.map(({ key, path, madeAt, bytes, used }) => [
      key,
      madeAt.toISOString(),
      formatBytes(bytes),
      usedBy(used, path),
    ]);
    host.stdout(table(["TEMPLATE", "MADE", "SIZE", "USED BY"], rows));
  }
  host.stderr(
    ready ? "" : "new machines start their kernel: shim factory init makes the template for them\n",
  );
  return ready ? 0 : 1;
}

function usedBy(used: boolean, path: string): string {
  if (used) return "new machines";
  return isOutdated(path) ? "nobody: outdated" : "machines of another make";
}

export async function runFactoryDestroy(args: Arguments, host: OperatorHost): Promise<number> {
  const dir = templatesDir(await configOf(args));
  const removed = removeTemplates(dir, () => true);
  host.stderr(
    `removed ${removed} ${removed === 1 ? "template" : "templates"}; machines that run are not touched\n`,
  );
  return 0;
}

async function configOf(args: Arguments): Promise<Config> {
  const file = args.value("config");
  return await loadConfig(file === undefined ? {} : { path: absolutePath(file) });
}
