/** Suites of the operator's tools: a node of one with pods, and `shim` as root would run it there. */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { CriHostInit } from "./cri-host.ts";
import { type CriSuite, withCriHost } from "./cri-suite.ts";
import { built } from "./paths.ts";
import { buildPtyTool, Pty, type PtyInit } from "./pty.ts";
import { describeResult, type RunOptions, type RunResult, run } from "./run.ts";

export const SHIM = join(built.bin, "shim");
/** User and group of `nobody`. */
const NOBODY = 65_534;

/** Milliseconds that one command may take. */
const LIMIT_MS = 180_000;

export interface OperatorSuite extends CriSuite {
  /** The command line of `shim` in the node's namespaces. */
  command(args: readonly string[]): string[];
  /** Runs `shim` to its end. */
  shim(args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** Like `shim`; resolves with its standard output. @throws when it fails */
  shimOk(args: readonly string[], options?: RunOptions): Promise<string>;
  /** Runs `shim` to its end as a user without any rights. */
  shimAsNobody(args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** Starts `shim` on a terminal. The caller disposes of it. */
  onTerminal(args: readonly string[], init?: PtyInit): Promise<Pty>;
}

/** Call once, at the top of a test file. */
export function withOperator(init: CriHostInit = {}): OperatorSuite {
  const suite = withCriHost(init);
  let ptyTool: Promise<string> | undefined;
  const env = (): NodeJS.ProcessEnv => ({
    ...process.env,
    CAISSON_CONF_FILE: suite.host().configFile,
    // The limits of `shim` are not the subject, and other suites may keep the machine busy.
    CAISSON_TIMEOUT_SCALE: "10",
  });
  const command = (args: readonly string[]) => suite.host().world.enter([SHIM, ...args]);
  const shim = (args: readonly string[], options: RunOptions = {}) =>
    run(command(args), { timeoutMs: LIMIT_MS, ...options, env: { ...env(), ...options.env } });
  return {
    ...suite,
    command,
    shim,
    async shimOk(args, options) {
      const result = await shim(args, options);
      assert.equal(result.code, 0, describeResult(result));
      return result.stdout;
    },
    shimAsNobody(args, options = {}) {
      const drop = ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups", "--"];
      return run(suite.host().world.enter([...drop, SHIM, ...args]), {
        timeoutMs: LIMIT_MS,
        ...options,
        env: { ...env(), ...options.env },
      });
    },
    async onTerminal(args, ptyInit) {
      ptyTool ??= buildPtyTool(suite.host().world.dir);
      return new Pty(await ptyTool, command(args), { ...ptyInit, env: { ...env(), ...ptyInit?.env } });
    },
  };
}
