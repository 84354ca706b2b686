/** `shim config`: where the configuration comes from, what it is, and what would become of a file. */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { errnoOf, SandboxError } from "../../base/errors.ts";
import { type Arguments, type Paint, table } from "../../cli/index.ts";
import {
  allKeys,
  type Config,
  camelCase,
  explainDocument,
  type KeyReport,
  lineNumbers,
  loadConfig,
  searchConfig,
} from "../../config/index.ts";
import { type OperatorHost, printJson } from "../host.ts";

export const absolutePath = (path: string): string => resolve(path);

export async function runConfigPaths(args: Arguments, host: OperatorHost): Promise<number> {
  const found = searchConfig();
  if (args.flag("json")) {
    printJson(host, found);
    return 0;
  }
  const marks = { base: "*", "drop-in": "+", absent: " ", "passed over": " " } as const;
  const onlyPaths = host.streams.stdout.isTTY !== true;
  for (const { path, role } of found) {
    const note = role === "passed over" ? "  (exists, but an earlier one is taken)" : "";
    host.stdout(onlyPaths ? `${path}\n` : `${marks[role]} ${path}${host.paint("dim", note)}\n`);
  }
  return 0;
}

interface Value {
  readonly key: string;
  readonly value: unknown;
  /** File or annotation; undefined for a default. */
  readonly origin: string | undefined;
  readonly line: number | undefined;
}

/** Every value of a configuration with its origin. */
export function configValues(config: Config): Value[] {
  const lines = new Map<string, ReadonlyMap<string, number>>();
  return allKeys().map(({ path, section, name }) => {
    const origin = config.origins[path];
    if (origin !== undefined && !lines.has(origin)) lines.set(origin, linesOf(origin));
    const values: Readonly<Record<string, unknown>> = config[section];
    return {
      key: path,
      value: values[camelCase(name)],
      origin,
      line: origin === undefined ? undefined : lineOf(lines.get(origin), path),
    };
  });
}

function linesOf(file: string): ReadonlyMap<string, number> {
  try {
    return lineNumbers(readFileSync(file, "utf8"));
  } catch {
    return new Map();
  }
}

/** A key may stand under Kata's name of its table. */
function lineOf(lines: ReadonlyMap<string, number> | undefined, path: string): number | undefined {
  return lines?.get(path) ?? lines?.get(path.replace(/^agent\.caisson\./, "agent.kata."));
}

export async function runConfigShow(args: Arguments, host: OperatorHost): Promise<number> {
  const file = args.value("config");
  const config = await loadConfig(file === undefined ? {} : { path: absolutePath(file) });
  const values = configValues(config).filter(({ origin }) => !args.flag("changed") || origin !== undefined);
  if (args.flag("json")) {
    printJson(host, { files: config.files, warnings: config.warnings, values });
    return 0;
  }
  for (const warning of config.warnings) host.stderr(`warning: ${warning}\n`);
  host.stdout(renderValues(values, host.paint));
  return 0;
}

/** TOML, with the origin behind each value. */
export function renderValues(values: readonly Value[], paint: Paint): string {
  const tables = new Map<string, string[][]>();
  for (const { key, value, origin, line } of values) {
    const dot = key.lastIndexOf(".");
    const rows = tables.get(key.slice(0, dot)) ?? [];
    const from = origin === undefined ? "# default" : `# ${origin}${line === undefined ? "" : `:${line}`}`;
    rows.push([`${key.slice(dot + 1)} = ${toml(value)}`, paint("dim", from)]);
    tables.set(key.slice(0, dot), rows);
  }
  const parts = [...tables].map(([name, rows]) => {
    const width = Math.min(60, Math.max(...rows.map(([text = ""]) => text.length)));
    const lines = rows.map(([text = "", from = ""]) => `${text.padEnd(width)}  ${from}\n`);
    return `[${name}]\n${lines.join("")}`;
  });
  return parts.join("\n");
}

/** JSON's strings, numbers, booleans and arrays are written in TOML as they are. */
const toml = (value: unknown): string => JSON.stringify(value);

export async function runConfigCheck(args: Arguments, host: OperatorHost): Promise<number> {
  const file = absolutePath(args.operands[0] ?? "");
  const text = readConfig(file);
  const { parse } = await import("smol-toml");
  let document: Record<string, unknown>;
  try {
    document = parse(text);
  } catch (cause) {
    const { line, column, message } = cause as { line?: number; column?: number; message?: string };
    throw new SandboxError(
      "ERR_CONFIG",
      `${file}:${line ?? "?"}:${column ?? "?"}: not valid TOML: ${(message ?? "").split("\n")[0]}`,
    );
  }
  const reports = explainDocument(document);
  const lines = lineNumbers(text);
  const refused = reports.filter(({ verdict }) => verdict === "unknown" || verdict === "wrong").length;
  if (args.flag("json")) {
    const rows = reports.map((report) => ({ ...report, line: lines.get(report.key) ?? null }));
    printJson(host, { file, accepted: refused === 0, keys: rows });
  } else {
    host.stdout(renderReports(reports, lines, host.paint));
    host.stderr(`${summary(reports)}\n`);
  }
  return refused === 0 ? 0 : 1;
}

function readConfig(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === "ENOENT") throw new SandboxError("ERR_NOT_FOUND", `${file} does not exist`);
    if (errno === "EISDIR") throw new SandboxError("ERR_INVALID_ARGUMENT", `${file} is a directory`);
    throw new SandboxError("ERR_PERMISSION", `${file} cannot be read`, { cause });
  }
}

function renderReports(
  reports: readonly KeyReport[],
  lines: ReadonlyMap<string, number>,
  paint: Paint,
): string {
  if (reports.length === 0) return "";
  const styles = {
    honoured: "green",
    translated: "green",
    ignored: "yellow",
    unknown: "red",
    wrong: "red",
  } as const;
  const rows = reports.map(({ key, verdict, note }) => [
    String(lines.get(key) ?? ""),
    key,
    paint(styles[verdict], verdict),
    note,
  ]);
  return table(["LINE>", "KEY", "VERDICT", "NOTE"], rows);
}

function summary(reports: readonly KeyReport[]): string {
  const count = (verdict: KeyReport["verdict"]) =>
    reports.filter((report) => report.verdict === verdict).length;
  const parts = (["honoured", "translated", "ignored", "unknown", "wrong"] as const)
    .map((verdict) => [verdict, count(verdict)] as const)
    .filter(([, number]) => number > 0)
    .map(([verdict, number]) => `${number} ${verdict}`);
  const refused = count("unknown") + count("wrong") > 0;
  return `${parts.join(", ") || "no keys"}: ${refused ? "a shim would refuse this file" : "a shim would take this file"}`;
}
