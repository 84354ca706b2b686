/** ctr on a terminal. */
import { type RunResult, run } from "./run.ts";
import type { TestHost } from "./test-host.ts";

/**
 * Runs ctr on a pseudo terminal of 33 rows and 99 columns, where its own messages go too. Line ends and what the outer
 * terminal echoes of its end of file are taken out of the output.
 */
export async function onTerminal(host: TestHost, args: readonly string[]): Promise<RunResult> {
  const quoted = host.containerd.ctrCommand(args).map((word) => `'${word.replaceAll("'", "'\\''")}'`);
  const command = `stty rows 33 cols 99; ${quoted.join(" ")}`;
  const argv = ["script", "--quiet", "--return", "--command", command, "/dev/null"];
  const result = await run(argv, { input: "" });
  return {
    ...result,
    stdout: result.stdout
      .replace(/\^[@D]/g, "")
      .replaceAll("\b", "")
      .replace(/\r+\n/g, "\n"),
  };
}

/** A shell command that ends once the terminal has the size that `onTerminal` gives, and prints it. */
export const TERMINAL_SIZE = 'until [ "$(stty size 2>/dev/null)" = "33 99" ]; do sleep 0.1; done; stty size';
