/** `shim factory`: the template from which machines start. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { silentLog } from "../../base/log.ts";
import { scaledMs } from "../../base/timeouts.ts";
import { UndoStack } from "../../base/undo.ts";
import { type Arguments, formatBytes, table } from "../../cli/index.ts";
import { CONFIG_ENV, type Config, loadConfig } from "../../config/index.ts";
import { closeFd } from "../../native/index.ts";
import { templateAt, templatesDir } from "../../runtime/template.ts";
import { type OperatorHost, printJson } from "../host.ts";
import { makeTemplate } from "../make-template.ts";
import {
  configurationsOf,
  DEFAULT_CONFIGURATION,
  isOutdated,
  isUseless,
  listTemplates,
  lockTemplates,
  noteConfigurations,
  removeTemplates,
  templateObstacle,
  wantedTemplate,
} from "../templates.ts";
import { absolutePath } from "./config.ts";

export async function runFactoryInit(args: Arguments, host: OperatorHost): Promise<number> {
  const file = configFile(args, host);
  const config = await loadConfig({ path: file });
  const obstacle = templateObstacle(config);
  const isOff = obstacle !== undefined && args.flag("if-enabled");
  if (isOff) host.stderr(`no template is made: ${obstacle}\n`);
  const dir = templatesDir(config);
  if (isOff && !existsSync(dir)) return 0;
  await using undo = new UndoStack();
  undo.adopt("lock of the templates", await locked(dir, host), closeFd);
  if (!isOff) await provide(config, args.flag("force"), file, host);
  const removed = await removeTemplates(dir, isUseless);
  if (removed > 0) host.stderr(`removed ${removed} that no machine can use any more\n`);
  return 0;
}

/** Makes the template that `config` asks for, which is that of `file`, unless it is there. */
async function provide(config: Config, force: boolean, file: string, host: OperatorHost): Promise<void> {
  const wanted = wantedTemplate(config);
  const path = join(wanted.dir, wanted.key);
  const began = performance.now();
  const others = await configurationsOf(path);
  const seconds = () => `${((performance.now() - began) / 1000).toFixed(1)} s`;
  if (!force && templateAt(path) !== undefined) {
    host.stderr(`the template is there: ${path}\n`);
  } else {
    const init = {
      ...wanted,
      config,
      bootLimitMs: scaledMs(config.agent.dialTimeout * 1000),
      log: silentLog,
      step: (what: string) => host.stderr(`${what} ... (${seconds()})\n`),
    };
    await makeTemplate(init, host.signal);
    const made = listTemplates(wanted.dir).find(({ key }) => key === wanted.key);
    host.stderr(`made ${path}: ${formatBytes(made?.bytes ?? 0)} in ${seconds()}\n`);
  }
  noteConfigurations(path, new Set([...others, file]));
}

export async function runFactoryStatus(args: Arguments, host: OperatorHost): Promise<number> {
  const config = await loadConfig({ path: configFile(args, host) });
  const obstacle = templateObstacle(config);
  const wanted = obstacle === undefined ? wantedTemplate(config).key : undefined;
  const dir = templatesDir(config);
  const templates = await Promise.all(
    listTemplates(dir).map(async (one) => ({
      ...one,
      used: one.key === wanted,
      outdated: isOutdated(one.path),
      configurations: await configurationsOf(one.path),
    })),
  );
  const ready = templates.some(({ used }) => used);
  if (args.flag("json")) {
    printJson(host, { dir, ready, wanted, templates });
    return ready ? 0 : 1;
  }
  if (templates.length > 0) {
    const rows = templates.map(({ key, madeAt, bytes, ...one }) => [
      key,
      madeAt.toISOString(),
      formatBytes(bytes),
      usedBy(one),
    ]);
    host.stdout(table(["TEMPLATE", "MADE", "SIZE", "USED BY"], rows));
  }
  const why = obstacle ?? "shim factory init makes the template for them";
  host.stderr(ready ? "" : `new machines start their kernel: ${why}\n`);
  return ready ? 0 : 1;
}

interface Use {
  readonly used: boolean;
  readonly outdated: boolean;
  readonly configurations: readonly string[];
}

function usedBy({ used, outdated, configurations }: Use): string {
  if (used) return "new machines";
  if (outdated) return "nobody: outdated";
  if (configurations.length === 0) return "nobody: no configuration asks for it";
  const files = configurations.map((file) => (file === DEFAULT_CONFIGURATION ? "the host" : file));
  return `machines of ${files.join(", ")}`;
}

export async function runFactoryDestroy(args: Arguments, host: OperatorHost): Promise<number> {
  const dir = templatesDir(await loadConfig({ path: configFile(args, host) }));
  let removed = 0;
  if (existsSync(dir)) {
    await using undo = new UndoStack();
    undo.adopt("lock of the templates", await locked(dir, host), closeFd);
    removed = await removeTemplates(dir, () => true);
  }
  host.stderr(
    `removed ${removed} ${removed === 1 ? "template" : "templates"}; machines that run are not touched\n`,
  );
  return 0;
}

function locked(dir: string, host: OperatorHost): Promise<number> {
  const waits = () => host.stderr("another shim factory is at work; waiting for it\n");
  return lockTemplates(dir, waits, host.signal);
}

/** The configuration's file as it was named. */
function configFile(args: Arguments, host: OperatorHost): string {
  const file = args.value("config");
  return file === undefined ? (host.env[CONFIG_ENV] ?? DEFAULT_CONFIGURATION) : absolutePath(file);
}
