/** The documentation and the shipped file, made from the table of keys. */
import { ANNOTATION_PREFIX, KATA_ANNOTATION_PREFIX } from "./annotations.ts";
import { CONFIG_ENV, DEFAULT_CONFIG_PATHS } from "./config.ts";
import { ignoredKataKeys } from "./kata.ts";
import type { Key } from "./key.ts";
import { type Section, sectionNames, sections } from "./keys.ts";

const regenerate = "node --import tsx scripts/config-docs.ts";

/** A value as TOML. */
function toml(value: unknown): string {
  return Array.isArray(value)
    ? `[${value.map((item) => JSON.stringify(item)).join(", ")}]`
    : JSON.stringify(value);
}

/** `words` broken into lines of at most `width` characters, each with `prefix`. */
function wrap(words: string, prefix: string, width: number): string[] {
  const lines: string[] = [];
  let line = prefix;
  for (const word of words.split(" ")) {
    const joined = line === prefix ? `${prefix}${word}` : `${line} ${word}`;
    if (joined.length > width && line !== prefix) {
      lines.push(line);
      line = `${prefix}${word}`;
    } else {
      line = joined;
    }
  }
  return [...lines, line];
}

function facts(key: Key<unknown>): string {
  const notes = [`Allowed: ${key.allowed}.`];
  if (key.annotation) notes.push("Can be set by annotation.");
  return notes.join(" ");
}

/** configs/configuration.toml: every key with its default, commented out. */
export function renderToml(): string {
  const lines = [
    "# Configuration of Caisson. Every key is shown with its default; remove the # to change one.",
    "# Small changes are better kept in config.d/*.toml beside this file, laid over it in the order of their names.",
    `# Made from src/config/keys.ts: ${regenerate}`,
  ];
  for (const name of sectionNames) {
    const section: Section = sections[name];
    lines.push("", `[${section.table}]`);
    for (const [keyName, key] of Object.entries(section.keys)) {
      lines.push(
        "",
        ...wrap(key.doc, "# ", 110),
        ...wrap(facts(key), "# ", 110),
        `#${keyName} = ${toml(key.fallback)}`,
      );
    }
  }
  return `${lines.join("\n")}\n`;
}

const cell = (content: string) => content.replaceAll("|", "\\|");

function keyTable(section: Section): string[] {
  const rows = Object.entries(section.keys).map(([name, key]) => {
    const notes = [key.annotation ? "annotation" : "", key.kata ? "Kata" : ""].filter((note) => note !== "");
    const columns = [
      `\`${name}\``,
      key.kind,
      `\`${toml(key.fallback)}\``,
      key.allowed,
      key.doc,
      notes.join(", "),
      key.since,
    ];
    return `| ${columns.map(cell).join(" | ")} |`;
  });
  return [
    "| key | type | default | allowed | meaning | notes | since |",
    "|---|---|---|---|---|---|---|",
    ...rows,
  ];
}

function sectionText(section: Section): string[] {
  const alias =
    section.alias === undefined ? [] : ["", `\`[${section.alias}]\` is accepted as another name of it.`];
  return ["", `## [${section.table}]`, "", section.doc, ...alias, "", ...keyTable(section)];
}

function annotationText(): string[] {
  const names = sectionNames.flatMap((name) => {
    const section: Section = sections[name];
    return Object.entries(section.keys)
      .filter(([, key]) => key.annotation)
      .map(([keyName]) => `- \`${ANNOTATION_PREFIX}${name}.${keyName}\``);
  });
  return [
    "",
    "## Annotations",
    "",
    `A pod sets a key with the annotation \`${ANNOTATION_PREFIX}<section>.<key>\`; \`${KATA_ANNOTATION_PREFIX}\` is accepted as another`,
    "prefix. `enable_annotations` in `[hypervisor.qemu]` has to name the key, and is empty by default. Keys that carry paths or",
    "raw arguments can never be set this way. containerd passes on only the annotations that `pod_annotations` of the runtime",
    "names. These keys can be allowed:",
    "",
    ...names,
  ];
}

function kataText(): string[] {
  const rows = Object.entries(ignoredKataKeys).flatMap(([table, keys]) =>
    Object.entries(keys).map(([name, { reason }]) => `| \`${table}.${name}\` | ${cell(reason)} |`),
  );
  return [
    "",
    "## Coming from Kata Containers",
    "",
    "Keys marked *Kata* above have the same name and meaning there. These keys of Kata are passed over, with a warning when",
    "their value asks for something that does not happen; every other unknown key is an error.",
    "",
    "| key | why |",
    "|---|---|",
    ...rows,
  ];
}

/** docs/configuration.md. */
export function renderMarkdown(): string {
  const lines = [
    "# Configuration",
    "",
    `This page is made from \`src/config/keys.ts\` (\`${regenerate}\`).`,
    "",
    "The file is the first of these that is given or exists; without any, the defaults below hold:",
    "",
    "1. the `ConfigPath` of containerd's runtime options (CRI-O: `runtime_config_path`),",
    `2. the path in the environment variable \`${CONFIG_ENV}\`,`,
    ...DEFAULT_CONFIG_PATHS.map(
      (path, index) => `${index + 3}. \`${path}\`${index === DEFAULT_CONFIG_PATHS.length - 1 ? "." : ","}`,
    ),
    "",
    "A file that was named and does not exist is an error. `config.d/*.toml` beside the file is laid over it, key by key, in the",
    "order of the names. When the file was not named, `/etc/caisson/config.d/*.toml` counts too, so small changes do not need a",
    "copy of the whole file. Unknown keys, wrong types and values out of range are errors that name file, key and what is",
    "allowed.",
    ...sectionNames.flatMap((name) => sectionText(sections[name])),
    ...annotationText(),
    ...kataText(),
  ];
  return `${lines.join("\n")}\n`;
}
