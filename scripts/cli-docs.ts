/**
 * Writes what is made from the definitions of the commands: man pages, completion scripts, the command reference. A unit
 * test (test/unit/cli/generated.test.ts) fails when a file is not what this would write.
 *
 *     node --import tsx scripts/cli-docs.ts
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { program as osbuilderProgram } from "../osbuilder/commands.ts";
import { VERSION } from "../src/base/version.ts";
import { commandHelp, completionScript, manPage, type ProgramDefinition } from "../src/cli/index.ts";
import { shimProgram } from "../src/operator/program.ts";

/** Names by which each shell looks for the completion of a program. */
const completionNames = {
  bash: (program: string) => `bash/${program}`,
  zsh: (program: string) => `zsh/_${program}`,
  fish: (program: string) => `fish/${program}.fish`,
} as const;

/** Every generated file by its path in the repository. */
export function generatedFiles(): ReadonlyMap<string, string> {
  const programs: readonly ProgramDefinition[] = [shimProgram, osbuilderProgram];
  const files = new Map<string, string>();
  for (const program of programs) {
    files.set(`docs/man/${program.name}.${program.section}`, manPage(program, VERSION));
    for (const [shell, nameOf] of Object.entries(completionNames)) {
      const script = completionScript(program, shell as keyof typeof completionNames);
      files.set(`configs/completions/${nameOf(program.name)}`, script);
    }
  }
  files.set("docs/cli-reference.md", reference(programs));
  return files;
}

function reference(programs: readonly ProgramDefinition[]): string {
  const parts = programs.flatMap((program) => [
    `## ${program.name}`,
    ...program.commands.map(
      (command) =>
        `### ${program.name} ${command.name}\n\n\`\`\`\n${commandHelp(program, command).trimEnd()}\n\`\`\``,
    ),
  ]);
  const head =
    "# Command reference\n\nMade from the definitions of the commands (`node --import tsx scripts/cli-docs.ts`). [cli.md](cli.md) explains.";
  return `${[head, ...parts].join("\n\n")}\n`;
}

function main(): void {
  const root = fileURLToPath(new URL("..", import.meta.url));
  for (const [path, content] of generatedFiles()) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
    console.log(path);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
