/** What a program's command line consists of. Parsing, help, man page and completion are all made from this. */

/** What a shell can offer for a value: files, directories, what another command of the program prints, or words. */
export type Completion =
  | { readonly kind: "file" }
  | { readonly kind: "directory" }
  /** Each line that `<program> <argv>` prints. */
  | { readonly kind: "command"; readonly argv: readonly string[] }
  | { readonly kind: "words"; readonly words: readonly string[] };

export interface OptionDefinition {
  readonly name: string;
  readonly short?: string;
  /** Name of the value in help texts; a flag without one. */
  readonly value?: string;
  readonly multiple?: boolean;
  /** One or more lines without an end mark. */
  readonly help: string;
  readonly complete?: Completion;
}

export interface OperandDefinition {
  readonly name: string;
  /** May be left out; only the last ones. */
  readonly optional?: boolean;
  /** Takes all that follow; only the last one. */
  readonly repeated?: boolean;
  readonly complete?: Completion;
}

export interface Example {
  readonly command: string;
  readonly text: string;
}

export interface CommandDefinition {
  /** One word, or two for a command of a group: "config show". */
  readonly name: string;
  readonly operands: readonly OperandDefinition[];
  /** Name of a command line of its own that may follow the operands, after `--` or without it. */
  readonly rest?: string;
  /** One line. */
  readonly summary: string;
  /** Whole sentences; an empty line between paragraphs. */
  readonly description: string;
  /** The description tells of its exit status, which is not as the program's. */
  readonly ownExitStatus?: true;
  readonly options: readonly OptionDefinition[];
  readonly examples?: readonly Example[];
}

export interface ProgramDefinition {
  readonly name: string;
  /** Section of its man page. */
  readonly section: 1 | 8;
  /** One clause, after the name: "makes the guest images of Caisson". */
  readonly summary: string;
  /** Whole sentences; an empty line between paragraphs. */
  readonly description: string;
  readonly commands: readonly CommandDefinition[];
  /** First words that stand for a command, such as old names of it. */
  readonly aliases?: Readonly<Record<string, readonly string[]>>;
  readonly exitStatuses: readonly (readonly [status: string, meaning: string])[];
  readonly environment?: readonly (readonly [name: string, meaning: string])[];
  readonly files?: readonly (readonly [path: string, meaning: string])[];
  readonly seeAlso?: readonly string[];
}

export const helpOption: OptionDefinition = { name: "help", short: "h", help: "show this help" };
export const versionOption: OptionDefinition = { name: "version", short: "V", help: "show the version" };

/** "generate", "show IMAGE", "exec ID [-- CMD...]". */
export function synopsis({ name, operands, rest }: CommandDefinition): string {
  const words = operands.map((operand) => {
    const word = operand.repeated === true ? `${operand.name}...` : operand.name;
    return operand.optional === true ? `[${word}]` : word;
  });
  return [name, ...words, ...(rest === undefined ? [] : [`[-- ${rest}...]`])].join(" ");
}

/** "-c, --check", "    --agent FILE". */
export function optionSyntax(option: OptionDefinition): string {
  const short = option.short === undefined ? "    " : `-${option.short}, `;
  return `${short}--${option.name}${option.value === undefined ? "" : ` ${option.value}`}`;
}
