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
/** containerd's own default. */
const CONTAINERD_SOCKET = "/run/containerd/containerd.sock";
/** Lines of a service's journal. */
const JOURNAL_LINES = "2000";
const plain = (_style: unknown, text: string): string => text;

export async function gatherReport(
  configPath: string | undefined,
  host: OperatorHost,
): Promise<ReportFile[]> {
  const files: Promise<ReportFile>[] = [];
  const add: Add = (path, what, make) => {
    files.push(
      (async () => {
        try {
          return { path, what, content: await make() };
        } catch (error) {
          return { path, what, content: `not available: ${describeError(error)}\n` };
        }
      })(),
    );
  };
  add("env.json", "versions, paths and choices (shim env)", async () =>
    json(await environment(await loadConfig(initOf(configPath)), host)),
  );
  add("check.json", "requirements of this host (shim check)", async () =>
    json(await checkHost(configPath, host)),
  );
  add("config.toml", "the effective configuration with origins (shim config show)", async () =>
    redactConfigText(renderValues(configValues(await loadConfig(initOf(configPath))), plain)),
  );
  const views = await viewSandboxes();
  add("sandboxes.json", "all sandboxes (shim list)", () => json(views.map(describe)));
  for (const view of views) addSandbox(view, add);
  addEngine(add);
  addContainerd(views, add);
  return await Promise.all(files);
}

type Add = (path: string, what: string, make: () => Promise<string> | string) => void;

const initOf = (path: string | undefined) => (path === undefined ? {} : { path });

function json(value: unknown): string {
  const text = JSON.stringify(
    value,
    (_, inner: unknown) => (typeof inner === "bigint" ? Number(inner) : inner),
    2,
  );
  return `${text}\n`;
}

function addSandbox({ record, status }: SandboxView, add: Add): void {
  const dir = `sandboxes/${record.id}`;
  add(`${dir}/journal.json`, "what exists because of it", () => json(readJournal(record.paths.journal)));
  add(`${dir}/status.json`, "its state, as its shim tells it", () =>
    json(status ?? "the shim does not answer"),
  );
  add(`${dir}/stats.json`, "counters of shim and guest", async () => {
    using control = await connectControl(record);
    return json(await control.calls.stats({}));
  });
  add(`${dir}/events.json`, "what happened (shim events)", async () => {
    using control = await connectControl(record);
    return json((await control.calls.events({ after: 0n, waitMs: 0 })).events);
  });
  for (const [name, path] of [
    ["shim.log", record.paths.shimLog],
    ["console.log", record.paths.consoleLog],
  ] as const) {
    add(`${dir}/${name}`, name === "shim.log" ? "its shim's log" : "its guest's console", () =>
      redactUrl(readBoth(path)),
    );
  }
  add(`${dir}/processes.txt`, "command lines of its processes", () => commandLines(record));
  for (const bundle of bundlesOf(record, status)) {
    add(`${dir}/specs/${bundle.id}.json`, "OCI spec of this container", () =>
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
function addEngine(add: Add): void {
  add("engine/version.txt", "version of containerd", () => output("containerd", ["--version"]));
  add(
    "engine/containerd-config.toml",
    "containerd's effective configuration, without credentials",
    async () => redactConfigText(await output("containerd", ["config", "dump"])),
  );
  add("engine/journal.txt", "the last lines that containerd and CRI-O logged", async () => {
    const units = ["containerd", "crio"].flatMap((unit) => ["--unit", unit]);
    return redactUrl(await output("journalctl", [...units, "--lines", JOURNAL_LINES, "--no-pager"]));
  });
  add("engine/environment.txt", "this program's environment, names only", () =>
    Object.keys(process.env)
      .sort()
      .map((name) => `${redactVariable(`${name}=`)}\n`)
      .join(""),
  );
}

/** What each containerd that owns a sandbox says of its containers; the usual one where there is none. */
function addContainerd(views: readonly SandboxView[], add: Add): void {
  const owners = new Map<string, Set<string>>();
  for (const { record } of views) {
    const address = fact(record, "containerd");
    if (address === undefined) continue;
    owners.set(address, (owners.get(address) ?? new Set()).add(record.namespace));
  }
  if (owners.size === 0) owners.set(CONTAINERD_SOCKET, new Set(["k8s.io"]));
  [...owners].forEach(([address, namespaces], index) => {
    const dir = index === 0 ? "containerd" : `containerd-${index + 1}`;
    const ask = (args: readonly string[]) => {
      // ctr waits ten seconds for a socket that is not there.
      if (!fs.existsSync(address)) throw new Error(`there is no containerd at ${address}`);
      return output("ctr", ["--address", address, ...args]);
    };
    add(`${dir}/plugins.txt`, `plugins of the containerd at ${address}`, () => ask(["plugins", "list"]));
    for (const namespace of namespaces)
      for (const what of ["containers", "tasks"])
        add(`${dir}/${namespace}-${what}.txt`, `${what} in its namespace ${namespace}`, () =>
          ask(["--namespace", namespace, what, "list"]),
        );
  });
}

function output(file: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(file, [...args], { timeout: LIMIT_MS, maxBuffer: 16 << 20 }, (error, stdout, stderr) => {
      if (error !== null && stdout === "") reject(new Error(stderr.trim() || error.message));
      else resolve(stdout);
    });
  });
}
