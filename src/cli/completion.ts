/** Completion scripts for bash, zsh and fish. */
import { type CommandDefinition, type Completion, helpOption, type ProgramDefinition } from "./definition.ts";

export const shells = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof shells)[number];

export function completionScript(program: ProgramDefinition, shell: Shell): string {
  const make = { bash: bashScript, zsh: zshScript, fish: fishScript }[shell];
  return make(program);
}

const header = (program: ProgramDefinition, shell: Shell): string =>
  `# Completion of ${program.name} for ${shell}. Made from the definition of the commands; do not edit.`;

const optionsOf = (command: CommandDefinition) => [...command.options, helpOption];
const quote = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
const oneLine = (text: string): string => text.replaceAll("\n", " ");

/** First words, and for those that are groups their second ones. */
function wordsOf({ commands }: ProgramDefinition) {
  const groups = new Map<string, CommandDefinition[]>();
  for (const command of commands) {
    const [first = "", second] = command.name.split(" ");
    const members = groups.get(first) ?? [];
    if (second !== undefined) members.push(command);
    groups.set(first, members);
  }
  return groups;
}

// ---- bash

function bashScript(program: ProgramDefinition): string {
  const { name } = program;
  const groups = [...wordsOf(program)];
  const subcommands = groups
    .filter(([, members]) => members.length > 0)
    .map(
      ([first, members]) =>
        `    ${first}) words="${members.map((command) => command.name.split(" ")[1]).join(" ")}" ;;`,
    );
  const cases = program.commands.map((command) => {
    const options = optionsOf(command).flatMap(({ name: long, short }) => [
      `--${long}`,
      ...(short === undefined ? [] : [`-${short}`]),
    ]);
    const values = command.options
      .filter((option) => option.value !== undefined)
      .map((option) => {
        const names = [`--${option.name}`, ...(option.short === undefined ? [] : [`-${option.short}`])];
        return `      case "$prev" in ${names.join("|")}) ${bashReply(name, option.complete)} return ;; esac`;
      });
    const operand = command.operands[0]?.complete;
    return [
      `    ${quote(command.name)})`,
      ...values,
      `      if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W "${options.join(" ")}" -- "$cur")); return; fi`,
      `      ${bashReply(name, operand)}`,
      "      ;;",
    ].join("\n");
  });
  return `${[
    header(program, "bash"),
    `_${name}() {`,
    `  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} command=\${COMP_WORDS[1]} words=`,
    "  COMPREPLY=()",
    "  if ((COMP_CWORD == 1)); then",
    `    COMPREPLY=($(compgen -W "${groups.map(([first]) => first).join(" ")} help --help --version" -- "$cur"))`,
    "    return",
    "  fi",
    '  case "$command" in',
    ...subcommands,
    "  esac",
    "  if [[ -n $words ]]; then",
    '    if ((COMP_CWORD == 2)); then COMPREPLY=($(compgen -W "$words" -- "$cur")); return; fi',
    `    command="$command \${COMP_WORDS[2]}"`,
    "  fi",
    '  case "$command" in',
    ...cases,
    "  esac",
    "}",
    `complete -F _${name} ${name}`,
  ].join("\n")}\n`;
}

function bashReply(program: string, completion: Completion | undefined): string {
  switch (completion?.kind) {
    case "file":
      return 'COMPREPLY=($(compgen -f -- "$cur"));';
    case "directory":
      return 'COMPREPLY=($(compgen -d -- "$cur"));';
    case "command":
      return `COMPREPLY=($(compgen -W "$(${program} ${completion.argv.join(" ")} 2>/dev/null)" -- "$cur"));`;
    case "words":
      return `COMPREPLY=($(compgen -W "${completion.words.join(" ")}" -- "$cur"));`;
    default:
      return ":;";
  }
}

// ---- zsh

function zshScript(program: ProgramDefinition): string {
  const { name } = program;
  const groups = [...wordsOf(program)];
  const summary = (first: string, members: readonly CommandDefinition[]) =>
    members.length > 0
      ? members.map((command) => command.name.split(" ")[1]).join(", ")
      : (program.commands.find((command) => command.name === first)?.summary ?? "");
  const describe = (word: string, text: string) => quote(`${word}:${oneLine(text).replaceAll(":", "\\:")}`);
  const nested = groups
    .filter(([, members]) => members.length > 0)
    .flatMap(([first, members]) => [
      `    ${first})`,
      "      if ((CURRENT == 3)); then",
      "        local -a members",
      `        members=(${members.map((command) => describe(command.name.split(" ")[1] ?? "", command.summary)).join(" ")})`,
      "        _describe member members",
      "        return",
      "      fi",
      '      command="$command $words[3]"',
      "      shift words",
      "      ((CURRENT--))",
      "      ;;",
    ]);
  const cases = program.commands.map((command) =>
    [`    ${quote(command.name)})`, `      _arguments ${zshArguments(name, command)}`, "      ;;"].join("\n"),
  );
  return `${[
    `#compdef ${name}`,
    header(program, "zsh"),
    `_${name}() {`,
    "  local command=$words[2]",
    "  if ((CURRENT == 2)); then",
    "    local -a commands",
    `    commands=(${groups.map(([first, members]) => describe(first, summary(first, members))).join(" ")})`,
    "    _describe command commands",
    "    return",
    "  fi",
    "  case $command in",
    ...nested,
    "  esac",
    "  shift words",
    "  ((CURRENT--))",
    "  case $command in",
    ...cases,
    "  esac",
    "}",
    `_${name} "$@"`,
  ].join("\n")}\n`;
}

function zshArguments(program: string, command: CommandDefinition): string {
  const specs = optionsOf(command).map((option) => {
    const text = oneLine(option.help).replaceAll("[", "\\[").replaceAll("]", "\\]").replaceAll(":", "\\:");
    const value =
      option.value === undefined
        ? ""
        : `:${option.value.replaceAll(":", "\\:")}:${zshAction(program, option.complete)}`;
    const repeated = option.multiple === true ? "*" : "";
    const names =
      option.short === undefined ? [`--${option.name}`] : [`-${option.short}`, `--${option.name}`];
    return names.map((name) => quote(`${repeated}${name}[${text}]${value}`)).join(" ");
  });
  const operands = command.operands.map((operand) => {
    const position = operand.repeated === true ? "*:" : operand.optional === true ? "::" : ":";
    return quote(`${position}${operand.name}:${zshAction(program, operand.complete)}`);
  });
  return [...specs, ...operands].join(" ");
}

function zshAction(program: string, completion: Completion | undefined): string {
  switch (completion?.kind) {
    case "file":
      return "_files";
    case "directory":
      return "_files -/";
    case "command":
      return `{compadd -- $(${program} ${completion.argv.join(" ")} 2>/dev/null)}`;
    case "words":
      return `(${completion.words.join(" ")})`;
    default:
      return "";
  }
}

// ---- fish

function fishScript(program: ProgramDefinition): string {
  const { name } = program;
  const groups = [...wordsOf(program)];
  const firsts = groups.map(([first]) => first).join(" ");
  const lines = groups.flatMap(([first, members]) => {
    const text =
      members.length > 0
        ? members.map((command) => command.name.split(" ")[1]).join(", ")
        : (program.commands.find((command) => command.name === first)?.summary ?? "");
    const noCommand = `not __fish_seen_subcommand_from ${firsts}`;
    return [
      `complete -c ${name} -n ${quote(noCommand)} -a ${first} -d ${quote(text)}`,
      ...members.map((command) => {
        const second = command.name.split(" ")[1] ?? "";
        const seconds = members.map((member) => member.name.split(" ")[1]).join(" ");
        const here = `__fish_seen_subcommand_from ${first}; and not __fish_seen_subcommand_from ${seconds}`;
        return `complete -c ${name} -n ${quote(here)} -a ${second} -d ${quote(command.summary)}`;
      }),
    ];
  });
  const options = program.commands.flatMap((command) => {
    const here = command.name
      .split(" ")
      .map((word) => `__fish_seen_subcommand_from ${word}`)
      .join("; and ");
    const own = optionsOf(command).map((option) => {
      const short = option.short === undefined ? "" : ` -s ${option.short}`;
      // -r alone would offer files beside the words.
      const required = option.complete?.kind === "file" ? " -r" : " -x";
      const value = option.value === undefined ? "" : `${required}${fishArguments(name, option.complete)}`;
      return `complete -c ${name} -n ${quote(here)} -l ${option.name}${short}${value} -d ${quote(oneLine(option.help))}`;
    });
    const operand = command.operands[0]?.complete;
    if (operand !== undefined)
      own.push(`complete -c ${name} -n ${quote(here)}${fishArguments(name, operand)}`);
    return own;
  });
  return `${[header(program, "fish"), `complete -c ${name} -f`, ...lines, ...options].join("\n")}\n`;
}

function fishArguments(program: string, completion: Completion | undefined): string {
  switch (completion?.kind) {
    case "file":
      return " -F";
    case "directory":
      return ` -a ${quote("(__fish_complete_directories)")}`;
    case "command":
      return ` -a ${quote(`(${program} ${completion.argv.join(" ")} 2>/dev/null)`)}`;
    case "words":
      return ` -a ${quote(completion.words.join(" "))}`;
    default:
      return "";
  }
}
