/** Help texts. */
import {
  type CommandDefinition,
  helpOption,
  optionSyntax,
  type ProgramDefinition,
  synopsis,
  versionOption,
} from "./definition.ts";

/** Columns that a help text fills at most. */
const WIDTH = 100;

/** The help text of a whole program. */
export function programHelp(program: ProgramDefinition): string {
  const width = Math.max(...program.commands.map((command) => synopsis(command).length));
  const lines = program.commands.map((command) => `  ${synopsis(command).padEnd(width)}  ${command.summary}`);
  return [
    `${program.name} ${program.summary}.`,
    "",
    `Usage: ${program.name} COMMAND [OPTION]...`,
    "",
    "Commands:",
    ...lines,
    "",
    "Options:",
    "  -h, --help     show this help, or that of a command",
    `  -V, --version  ${versionOption.help}`,
    "",
    exitStatusHelp(program),
    "",
  ].join("\n");
}

/** The help text of one command. */
export function commandHelp(program: ProgramDefinition, command: CommandDefinition): string {
  const options = [...command.options, helpOption].map(
    (option) => [optionSyntax(option), option.help] as const,
  );
  const width = Math.max(...options.map(([syntax]) => syntax.length));
  const indent = `\n${" ".repeat(width + 4)}`;
  const examples = (command.examples ?? []).flatMap(({ command: line, text }) => [
    `  ${line}`,
    `      ${text}`,
  ]);
  return [
    `Usage: ${program.name} ${synopsis(command).replace(command.name, `${command.name} [OPTION]...`)}`,
    "",
    ...wrap(command.description, WIDTH),
    "",
    "Options:",
    ...options.map(([syntax, text]) => `  ${syntax.padEnd(width)}  ${text.replaceAll("\n", indent)}`),
    "",
    ...(examples.length === 0 ? [] : ["Examples:", ...examples, ""]),
    ...(command.ownExitStatus === true ? [] : [exitStatusHelp(program), ""]),
  ].join("\n");
}

function exitStatusHelp({ exitStatuses }: ProgramDefinition): string {
  const text = exitStatuses.map(([status, meaning]) => `${status} ${meaning}`).join(", ");
  return wrap(`Exit status: ${text}.`, WIDTH).join("\n");
}

/** Paragraphs in lines of at most `width` columns; words that are longer stand alone. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split("\n\n")) {
    if (lines.length > 0) lines.push("");
    let line = "";
    for (const word of paragraph.split(/\s+/)) {
      if (line !== "" && line.length + 1 + word.length > width) {
        lines.push(line);
        line = word;
      } else {
        line = line === "" ? word : `${line} ${word}`;
      }
    }
    lines.push(line);
  }
  return lines;
}
