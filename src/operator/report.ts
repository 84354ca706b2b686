/** The files of a bug report. Whatever cannot be had is in the report as the reason why. */
import { execFile } from "node:child_process";
import fs from "node:fs";
import { join } from "node:path";
import { describeError } from "../base/errors.ts";
import { loadConfig } from "../config/index.ts";
import { readJournal } from "../persist/journal.ts";
import { checkHost } from "./checks.ts";
import { connectControl } from "./control-client.ts";
import { environment } from "./environment.ts";
import type { OperatorHost } from "./host.ts";
import { redactConfigText, redactSpec, redactUrl, redactVariable } from "./redact.ts";
import { fact, type SandboxRecord } from "./sandbox-record.ts";
import { type SandboxView, viewSandboxes } from "./sandbox-view.ts";
import { configValues, renderValues } from "./verbs/config.ts";
import { describe } from "./verbs/list.ts";

export interface ReportFile {
  readonly path: string;
  readonly content: string;
  /** One line for the list. */
  readonly what: string;
}

const LIMIT_MS = 10_000;
/** Lines of a service's journal. */
const JOURNAL_LINES = "2000";
const plain = (_style: unknown, text: string): string => text;

export async function gatherReport(
  configPath: string | undefined,
  host: OperatorHost,
): Promise<ReportFile[]> {
  const files: ReportFile[] = [];
  const add = async (path: string, what: string, make: () => Promise<string> | string) => {
    let content: string;
    try {
      content = await make();
    } catch (error) {
      content = `not available: ${describeError(error)}\n`;
    }
    files.push({ path, what, content });
  };
  await add("env.json", "versions, paths and choices (shim env)", async () =>
    json(await environment(await loadConfig(initOf(configPath)), host)),
  );
  await add("check.json", "requirements of this host (shim check)", async () =>
    json(await checkHost(configPath, host)),
  );
  await add("config.toml", "the effective configuration with origins (shim config show)", async () =>
    redactConfigText(renderValues(configValues(await loadConfig(initOf(configPath))), plain)),
  );
  let views: SandboxView[] = [];
  await add("sandboxes.json", "all sandboxes (shim list)", async () => {
    views = await viewSandboxes();
    return json(views.map(describe));
  });
  for (const view of views) await addSandbox(view, add);
  await addEngine(add);
  return files;
}

type Add = (path: string, what: string, make: () => Promise<string> | string) => Promise<void>;

const initOf = (path: string | undefined) => (path === undefined ? {} : { path });

function json(value: unknown): string {
  const text = JSON.stringify(
    value,
    (_, inner: unknown) => (typeof inner === "bigint" ? Number(inner) : inner),
    2,
  );
  return `${text}\n`;
}

async function addSandbox({ record, status }: SandboxView, add: Add): Promise<void> {
  const dir = `sandboxes/${record.id}`;
  await add(`${dir}/journal.json`, `${record.id}: what exists because of it`, () =>
    json(readJournal(record.paths.journal)),
  );
  await add(`${dir}/status.json`, `${record.id}: state, as its shim tells it`, () =>
    json(status ?? "the shim does not answer"),
  );
  await add(`${dir}/stats.json`, `${record.id}: counters of shim and guest`, async () => {
    using control = await connectControl(record);
    return json(await control.calls.stats({}));
  });
  await add(`${dir}/events.json`, `${record.id}: what happened`, async () => {
    using control = await connectControl(record);
    return json((await control.calls.events({ after: 0n, waitMs: 0 })).events);
  });
  for (const [name, path] of [
    ["shim.log", record.paths.shimLog],
    ["console.log", record.paths.consoleLog],
  ] as const) {
    await add(
      `${dir}/${name}`,
      `${record.id}: ${name === "shim.log" ? "its shim's log" : "its guest's console"}`,
      () => redactUrl(readBoth(path)),
    );
  }
  await add(`${dir}/processes.txt`, `${record.id}: its processes' command lines`, () => commandLines(record));
  for (const bundle of bundlesOf(record, status)) {
    await add(`${dir}/specs/${bundle.id}.json`, `${record.id}: OCI spec of container ${bundle.id}`, () =>
      json(redactSpec(JSON.parse(fs.readFileSync(join(bundle.path, "config.json"), "utf8")))),
    );
  }
}

function bundlesOf(record: SandboxRecord, status: SandboxView["status"]) {
  const own = fact(record, "bundle");
  const known = (status?.containers ?? []).map(({ id, bundle }) => ({ id, path: bundle }));
  if (own !== undefined && !known.some(({ path }) => path === own))
    known.unshift({ id: record.id, path: own });
  return known;
}

/** The older half first. */
function readBoth(path: string): string {
  const parts = [`${path}.1`, path].filter((one) => fs.existsSync(one));
  return parts.length === 0 ? "" : parts.map((one) => fs.readFileSync(one, "utf8")).join("");
}

function commandLines({ processes }: SandboxRecord): string {
  return processes
    .map(({ name, pid }) => {
      const line = fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      return `${name} ${pid}: ${redactUrl(line)}\n`;
    })
    .join("");
}

/** containerd's or CRI-O's version, configuration and last words. */
async function addEngine(add: Add): Promise<void> {
  await add("engine/version.txt", "version of containerd", () => output("containerd", ["--version"]));
  await add(
    "engine/containerd-config.toml",
    "containerd's effective configuration, without credentials",
    async () => redactConfigText(await output("containerd", ["config", "dump"])),
  );
  await add("engine/plugins.txt", "containerd's plugins", () => output("ctr", ["plugins", "list"]));
  await add("engine/journal.txt", "the last lines that containerd and CRI-O logged", async () => {
    const units = ["containerd", "crio"].flatMap((unit) => ["--unit", unit]);
    return redactUrl(await output("journalctl", [...units, "--lines", JOURNAL_LINES, "--no-pager"]));
  });
  await add("engine/environment.txt", "this program's environment, names only", () =>
    Object.keys(process.env)
      .sort()
      .map((name) => `${redactVariable(`${name}=`)}\n`)
      .join(""),
  );
}

function output(file: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(file, [...args], { timeout: LIMIT_MS, maxBuffer: 16 << 20 }, (error, stdout, stderr) => {
      if (error !== null && stdout === "") reject(new Error(stderr.trim() || error.message));
      else resolve(stdout);
    });
  });
}
