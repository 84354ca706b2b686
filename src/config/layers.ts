/** Values of several sources laid over each other: defaults, the file, drop-ins, annotations. */
import { type IgnoredKey, ignoredKataKeys, ignoredKataTables } from "./kata.ts";
import type { Key } from "./key.ts";
import {
  type ConfigValues,
  camelCase,
  type Section,
  type SectionName,
  sectionNames,
  sections,
} from "./keys.ts";

interface Entry {
  readonly value: unknown;
  readonly origin: string;
}

/** What is wrong with one source: whole clauses, each beginning with the key's path. */
export type Problems = string[];

/** "hypervisor.qemu.default_memory": how a key is called in errors and documents. */
export function keyPath(section: SectionName, name: string): string {
  return `${sections[section].table}.${name}`;
}

export function keyOf(section: SectionName, name: string): Key<unknown> | undefined {
  const keys: Section["keys"] = sections[section].keys;
  return Object.hasOwn(keys, name) ? keys[name] : undefined;
}

export class Layers {
  /** By key path. */
  readonly #entries = new Map<string, Entry>();
  readonly warnings: string[] = [];

  /** Where the value of each key that is not a default came from, by key path. */
  origins(): Readonly<Record<string, string>> {
    return Object.fromEntries([...this.#entries].map(([path, entry]) => [path, entry.origin]));
  }

  get(section: SectionName, name: string): unknown {
    const entry = this.#entries.get(keyPath(section, name));
    return entry === undefined ? keyOf(section, name)?.fallback : entry.value;
  }

  /** Sets a value if it is allowed, else says why not. */
  set(section: SectionName, name: string, value: unknown, origin: string): string | undefined {
    const path = keyPath(section, name);
    const key = keyOf(section, name);
    if (key === undefined) return unknownKey(section, name);
    if (!key.accept(value)) return `${path} = ${show(value)} is not allowed: it has to be ${key.allowed}`;
    this.#entries.set(path, { value, origin });
    return undefined;
  }

  /** Lays a parsed TOML document on top. Returns what is wrong with it; valid keys are taken nevertheless. */
  addDocument(document: Readonly<Record<string, unknown>>, file: string): Problems {
    const problems: Problems = [];
    for (const [name, value] of Object.entries(document)) {
      const ignoredTable = Object.hasOwn(ignoredKataTables, name) ? ignoredKataTables[name] : undefined;
      if (ignoredTable !== undefined) this.#warnOfTable(name, value, ignoredTable, file);
      else if (!isTable(value)) problems.push(`${name} is not a known key; keys belong to a table`);
      else this.#addTable(name, value, file, problems);
    }
    return problems;
  }

  /** All values, frozen. Preconditions: every layer was free of problems. */
  values(): ConfigValues {
    const result: Record<string, Record<string, unknown>> = {};
    for (const section of sectionNames) {
      const values: Record<string, unknown> = {};
      for (const name of Object.keys(sections[section].keys)) {
        const value = this.get(section, name);
        values[camelCase(name)] = Array.isArray(value) ? Object.freeze([...value]) : value;
      }
      result[section] = values;
    }
    // The table of keys is the source of both this object and its type.
    return result as unknown as ConfigValues;
  }

  #addTable(name: string, table: Readonly<Record<string, unknown>>, file: string, problems: Problems): void {
    const section = sectionOfTable(name);
    if (section !== undefined) {
      this.#addKeys(section, table, file, problems);
      return;
    }
    for (const [inner, value] of Object.entries(table)) {
      const path = `${name}.${inner}`;
      const innerSection = sectionOfTable(path);
      if (innerSection === undefined || !isTable(value)) problems.push(unknownTable(path));
      else this.#addKeys(innerSection, value, file, problems);
    }
  }

  #addKeys(
    section: SectionName,
    table: Readonly<Record<string, unknown>>,
    file: string,
    problems: Problems,
  ): void {
    for (const [name, value] of Object.entries(table)) {
      const ignored = ignoredKey(section, name);
      if (ignored === undefined) {
        const problem = this.set(section, name, value, file);
        if (problem !== undefined) problems.push(problem);
      } else if (!ignored.silent?.some((silent) => JSON.stringify(silent) === JSON.stringify(value))) {
        this.warnings.push(`${file}: ${keyPath(section, name)} is ignored: ${ignored.reason}`);
      }
    }
  }

  #warnOfTable(name: string, value: unknown, reason: string, file: string): void {
    const active = isTable(value) && Object.values(value).some((item) => item !== false && item !== 0);
    if (active) this.warnings.push(`${file}: [${name}] is ignored: ${reason}`);
  }
}

function ignoredKey(section: SectionName, name: string): IgnoredKey | undefined {
  const keys = ignoredKataKeys[sections[section].table] ?? {};
  return Object.hasOwn(keys, name) ? keys[name] : undefined;
}

function sectionOfTable(table: string): SectionName | undefined {
  return sectionNames.find((name) => {
    const section: Section = sections[name];
    return section.table === table || section.alias === table;
  });
}

function unknownTable(path: string): string {
  const known = sectionNames.map((name) => `[${sections[name].table}]`).join(", ");
  return `[${path}] is not a known table; there are ${known}`;
}

function unknownKey(section: SectionName, name: string): string {
  const near = nearest(name, Object.keys(sections[section].keys));
  const hint = near === undefined ? "" : `; did you mean ${near}?`;
  return `${keyPath(section, name)} is not a known key${hint}`;
}

/** The candidate that differs least from `name`, when it is near enough to be a slip. */
function nearest(name: string, candidates: readonly string[]): string | undefined {
  const scored = candidates.map((candidate) => ({ candidate, cost: editDistance(name, candidate) }));
  const best = scored.sort((a, b) => a.cost - b.cost)[0];
  return best !== undefined && best.cost <= Math.max(2, name.length / 3) ? best.candidate : undefined;
}

/** Levenshtein distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replace = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replace, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

function isTable(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function show(value: unknown): string {
  const textual = JSON.stringify(value) ?? String(value);
  return textual.length > 60 ? `${textual.slice(0, 60)}…` : textual;
}
