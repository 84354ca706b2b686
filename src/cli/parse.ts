/** From argv to a command with checked options. */
import { type ParseArgsConfig, parseArgs } from "node:util";
import { Arguments } from "./arguments.ts";
import { type CommandDefinition, helpOption, type ProgramDefinition, synopsis } from "./definition.ts";
import { nearest } from "./nearest.ts";
import { UsageError } from "./usage-error.ts";

export type Invocation =
  | { readonly kind: "help"; readonly command: CommandDefinition | undefined }
  | { readonly kind: "version" }
  | { readonly kind: "run"; readonly command: CommandDefinition; readonly arguments: Arguments };

/** @throws UsageError when `argv` (without node and script) is not a valid command line. */
export function parseCommandLine(program: ProgramDefinition, argv: readonly string[]): Invocation {
  const [first, ...rest] = argv;
  if (first === "-h" || first === "--help" || first === "help")
    return { kind: "help", command: find(program, rest)?.command };
  if (first === "-V" || first === "--version") return { kind: "version" };
  if (first === undefined) throw new UsageError(`which command? ${names(program)}`);
  const words = [...(program.aliases?.[first] ?? [first]), ...rest];
  const found = find(program, words);
  if (found === undefined) return unknownCommand(program, words);
  return parseCommand(found.command, words.slice(found.words));
}

/** The command that `argv` begins with, also where the rest is wrong. */
function commandOf(program: ProgramDefinition, argv: readonly string[]): CommandDefinition | undefined {
  const [first = "", ...rest] = argv;
  return find(program, [...(program.aliases?.[first] ?? [first]), ...rest])?.command;
}

/** What follows the error of a wrong command line: the help of the command that `argv` begins with. */
export function tryHelp(program: ProgramDefinition, argv: readonly string[]): string {
  const command = commandOf(program, argv);
  return `Try: ${program.name} ${command === undefined ? "" : `${command.name} `}--help\n`;
}

/** The command that `words` begin with, and how many of them are its name. */
function find(program: ProgramDefinition, words: readonly string[]) {
  for (const count of [2, 1]) {
    const name = words.slice(0, count).join(" ");
    const command = program.commands.find((candidate) => candidate.name === name);
    if (command !== undefined && words.length >= count) return { command, words: count };
  }
  return undefined;
}

function unknownCommand(program: ProgramDefinition, [first = "", second]: readonly string[]): Invocation {
  const group = program.commands.filter(({ name }) => name.startsWith(`${first} `));
  if (group.length > 0 && (second === "--help" || second === "-h"))
    return { kind: "help", command: undefined };
  if (group.length > 0) {
    const members = group.map(({ name }) => name.slice(first.length + 1)).join(", ");
    throw new UsageError(
      `${first} takes one of ${members}${second === undefined ? "" : `, not "${second}"`}`,
    );
  }
  const firstWords = program.commands.map(({ name }) => name.split(" ", 1)[0] ?? "");
  const near = nearest(first, firstWords);
  const hint = near === undefined ? `there are ${names(program)}` : `did you mean ${near}?`;
  throw new UsageError(`there is no command "${first}"; ${hint}`);
}

function names(program: ProgramDefinition): string {
  return program.commands.map((command) => command.name).join(", ");
}

function parseCommand(command: CommandDefinition, argv: readonly string[]): Invocation {
  const options: NonNullable<ParseArgsConfig["options"]> = {};
  for (const option of [helpOption, ...command.options]) {
    options[option.name] = {
      type: option.value === undefined ? "boolean" : "string",
      multiple: option.multiple === true,
      ...(option.short === undefined ? {} : { short: option.short }),
    };
  }
  const { own, rest } = command.rest === undefined ? { own: argv, rest: [] } : splitRest(command, argv);
  const parsed = parse(command, own, options);
  if (parsed.values.help === true) return { kind: "help", command };
  checkOperands(command, parsed.positionals);
  return { kind: "run", command, arguments: new Arguments(parsed.values, parsed.positionals, rest) };
}

/** Cuts off the other command line: behind `--`, or with the first word behind the operands. */
function splitRest(command: CommandDefinition, argv: readonly string[]) {
  let operands = 0;
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at] ?? "";
    if (word === "--") return { own: argv.slice(0, at), rest: argv.slice(at + 1) };
    if (word.startsWith("-") && word !== "-") {
      if (takesNextWord(command, word)) at++;
    } else if (operands++ === command.operands.length) {
      return { own: argv.slice(0, at), rest: argv.slice(at) };
    }
  }
  return { own: argv, rest: [] };
}

function takesNextWord({ options }: CommandDefinition, word: string): boolean {
  const option = word.startsWith("--")
    ? options.find(({ name }) => word === `--${name}`)
    : options.find(({ short }) => short !== undefined && word === `-${short}`);
  return option?.value !== undefined;
}

function checkOperands(command: CommandDefinition, given: readonly string[]): void {
  const { operands } = command;
  const least = operands.filter((operand) => operand.optional !== true).length;
  const most = operands.at(-1)?.repeated === true ? Number.POSITIVE_INFINITY : operands.length;
  if (given.length >= least && given.length <= most) return;
  const takes = synopsis(command).slice(command.name.length + 1);
  const expected = operands.length === 0 ? "takes no operands" : `takes ${takes}`;
  const many = given.length === 0 ? "none were" : given.length === 1 ? "1 was" : `${given.length} were`;
  throw new UsageError(`${command.name} ${expected}; ${many} given`);
}

function parse(command: CommandDefinition, args: readonly string[], options: ParseArgsConfig["options"]) {
  try {
    return parseArgs({ args: [...args], options: options ?? {}, allowPositionals: true, strict: true });
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    if (typeof code !== "string" || !code.startsWith("ERR_PARSE_ARGS")) throw error;
    const text = (error as Error).message.split(". ")[0] ?? "";
    throw new UsageError(`${command.name}: ${text}${hintFor(command, args, code)}`);
  }
}

function hintFor({ options }: CommandDefinition, args: readonly string[], code: string): string {
  if (code !== "ERR_PARSE_ARGS_UNKNOWN_OPTION") return "";
  const known = options.map(({ name }) => `--${name}`);
  const wrong = args.find((arg) => arg.startsWith("--") && !known.includes(arg.split("=", 1)[0] ?? ""));
  const near = wrong === undefined ? undefined : nearest(wrong, known);
  return near === undefined ? "" : `; did you mean ${near}?`;
}
