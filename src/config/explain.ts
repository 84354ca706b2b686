/** What the configuration makes of a file, key by key; and on which line of a file a key stands. */
import { type IgnoredKey, ignoredKataKeys, ignoredKataTables } from "./kata.ts";
import { type Section, type SectionName, sectionNames, sections } from "./keys.ts";
import { keyOf, keyPath, Layers } from "./layers.ts";

export interface KeyReport {
  /** As in the file: "agent.kata.enable_debug". */
  readonly key: string;
  readonly value: unknown;
  /**
   * honoured: it has the meaning that it says; translated: under another name; ignored: passed over, `note` says why;
   * unknown and wrong: a shim would refuse the file.
   */
  readonly verdict: "honoured" | "translated" | "ignored" | "unknown" | "wrong";
  readonly note: string;
}

/** @param document the parsed TOML */
export function explainDocument(document: Readonly<Record<string, unknown>>): KeyReport[] {
  return Object.entries(document).flatMap(([name, value]) => {
    const ignoredTable = Object.hasOwn(ignoredKataTables, name) ? ignoredKataTables[name] : undefined;
    if (ignoredTable !== undefined) return everyKey(name, value, "ignored", ignoredTable);
    if (!isTable(value)) return [report(name, value, "unknown", "keys belong to a table")];
    if (sectionOf(name) !== undefined) return explainTable(name, value);
    return Object.entries(value).flatMap(([inner, table]) => explainTable(`${name}.${inner}`, table));
  });
}

/** The lines (from 1) on which the keys of a TOML text stand, by the key's path as written. */
export function lineNumbers(text: string): ReadonlyMap<string, number> {
  const lines = new Map<string, number>();
  let table = "";
  let open = "";
  let depth = 0;
  for (const [index, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    if (open !== "") {
      if (line.includes(open)) open = "";
      continue;
    }
    if (depth > 0) {
      depth += brackets(line);
      continue;
    }
    const header = /^\[([^[\]]+)\]/.exec(line);
    const key = /^("?)([A-Za-z0-9_-]+)\1\s*=\s*(.*)$/.exec(line);
    if (header?.[1] !== undefined) table = header[1].replaceAll(/[\s"']/g, "");
    else if (key?.[2] !== undefined) {
      lines.set(table === "" ? key[2] : `${table}.${key[2]}`, index + 1);
      const value = key[3] ?? "";
      open = ['"""', "'''"].find((quote) => value.startsWith(quote) && !value.slice(3).includes(quote)) ?? "";
      if (open === "") depth = Math.max(0, brackets(value));
    }
  }
  return lines;
}

/** Brackets opened less those closed, outside of strings and comments. */
function brackets(text: string): number {
  const bare = text.replace(/"(?:[^"\\]|\\.)*"|'[^']*'/g, "").replace(/#.*$/, "");
  return [...bare].reduce((depth, char) => depth + (char === "[" ? 1 : char === "]" ? -1 : 0), 0);
}

function explainTable(name: string, table: unknown): KeyReport[] {
  const section = sectionOf(name);
  if (section === undefined || !isTable(table)) {
    const known = sectionNames.map((one) => `[${sections[one].table}]`).join(", ");
    return everyKey(name, table, "unknown", `there is no such table; there are ${known}`);
  }
  return Object.entries(table).map(([key, value]) => explainKey(section, name, key, value));
}

function explainKey(section: SectionName, table: string, name: string, value: unknown): KeyReport {
  const path = `${table}.${name}`;
  const keys: Readonly<Record<string, IgnoredKey>> = ignoredKataKeys[sections[section].table] ?? {};
  const ignored = Object.hasOwn(keys, name) ? keys[name] : undefined;
  if (ignored !== undefined) {
    const silent = ignored.silent?.some((one) => JSON.stringify(one) === JSON.stringify(value)) === true;
    return report(
      path,
      value,
      "ignored",
      silent ? `${ignored.reason}; this value asks for nothing else` : ignored.reason,
    );
  }
  const problem = new Layers().set(section, name, value, "");
  if (problem !== undefined)
    return report(path, value, keyOf(section, name) === undefined ? "unknown" : "wrong", problem);
  const own = keyPath(section, name);
  return own === path
    ? report(path, value, "honoured", "")
    : report(path, value, "translated", `read as ${own}`);
}

function everyKey(name: string, value: unknown, verdict: KeyReport["verdict"], note: string): KeyReport[] {
  if (!isTable(value)) return [report(name, value, verdict, note)];
  const entries = Object.entries(value);
  if (entries.length === 0) return [report(`[${name}]`, undefined, verdict, note)];
  return entries.map(([key, inner]) => report(`${name}.${key}`, inner, verdict, note));
}

function sectionOf(table: string): SectionName | undefined {
  return sectionNames.find((name) => {
    const section: Section = sections[name];
    return section.table === table || section.alias === table;
  });
}

const report = (key: string, value: unknown, verdict: KeyReport["verdict"], note: string): KeyReport => ({
  key,
  value,
  verdict,
  note,
});

function isTable(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

/** Every key with its path, in the order of the documentation. */
export function allKeys(): readonly {
  readonly path: string;
  readonly section: SectionName;
  readonly name: string;
}[] {
  return sectionNames.flatMap((section) =>
    Object.keys(sections[section].keys).map((name) => ({ path: keyPath(section, name), section, name })),
  );
}
