/** Man pages: roff with the man macros (man-pages(7), groff_man(7)). */
import {
  type CommandDefinition,
  helpOption,
  type OptionDefinition,
  type ProgramDefinition,
  synopsis,
} from "./definition.ts";

/** One page for the whole program. @param version as `--version` prints it */
export function manPage(program: ProgramDefinition, version: string): string {
  const { name, section } = program;
  return `${[
    `.\\" Made from the definition of the commands; do not edit.`,
    `.TH ${name.toUpperCase()} ${section} "" "Caisson ${version}" "Caisson"`,
    ".SH NAME",
    `${name} \\- ${roff(program.summary)}`,
    ".SH SYNOPSIS",
    `.B ${name}`,
    "\\fICOMMAND\\fR [\\fIOPTION\\fR]...",
    ".SH DESCRIPTION",
    ...paragraphs(program.description),
    ".SH COMMANDS",
    ...program.commands.flatMap((command) => commandSection(program, command)),
    ...list("EXIT STATUS", program.exitStatuses),
    ...list("ENVIRONMENT", program.environment ?? []),
    ...list("FILES", program.files ?? []),
    ...seeAlso(program.seeAlso ?? []),
  ].join("\n")}\n`;
}

function commandSection(program: ProgramDefinition, command: CommandDefinition): string[] {
  const words = synopsis(command).slice(command.name.length).trim();
  return [
    `.SS ${program.name} ${command.name}${words === "" ? "" : ` ${roff(words)}`}`,
    ...paragraphs(`${upperFirst(command.summary)}.\n\n${command.description}`),
    ...[...command.options, helpOption].flatMap(optionItem),
    ...(command.examples ?? []).flatMap(({ command: line, text }) => [
      ".PP",
      `${roff(upperFirst(text))}:`,
      ".PP",
      ".RS 4",
      ".nf",
      roff(line),
      ".fi",
      ".RE",
    ]),
  ];
}

function optionItem({ name, short, value, help }: OptionDefinition): string[] {
  const long = `\\fB\\-\\-${roff(name)}\\fR${value === undefined ? "" : ` \\fI${roff(value)}\\fR`}`;
  return [
    ".TP",
    short === undefined ? long : `\\fB\\-${short}\\fR, ${long}`,
    roff(upperFirst(help.replaceAll("\n", " "))),
  ];
}

function list(title: string, items: readonly (readonly [string, string])[]): string[] {
  if (items.length === 0) return [];
  return [
    `.SH ${title}`,
    ...items.flatMap(([name, meaning]) => [".TP", `\\fB${roff(name)}\\fR`, roff(upperFirst(meaning))]),
  ];
}

function seeAlso(pages: readonly string[]): string[] {
  return pages.length === 0 ? [] : [".SH SEE ALSO", roff(pages.join(", "))];
}

function paragraphs(text: string): string[] {
  return text.split("\n\n").flatMap((paragraph) => [".PP", roff(paragraph.replaceAll("\n", " "))]);
}

/** Backslash, hyphen and a dot or quote at the start of a line have a meaning of their own. */
function roff(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/^([.'])/gm, "\\&$1");
}

const upperFirst = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
