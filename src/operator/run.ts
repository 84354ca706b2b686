/** From a command line of `shim` to the verb that does it. Each verb is loaded only when it is called for. */
import { describeError, errnoOf, SandboxError } from "../base/errors.ts";
import { commandHelp, parseCommandLine, programHelp, tryHelp, UsageError } from "../cli/index.ts";
import { Interrupted, type OperatorHost, type Verb } from "./host.ts";
import { shimProgram } from "./program.ts";

const verbs: Readonly<Record<string, () => Promise<Verb>>> = {
  list: async () => (await import("./verbs/list.ts")).runList,
  exec: async () => (await import("./verbs/exec.ts")).runExec,
  cp: async () => (await import("./verbs/cp.ts")).runCp,
  logs: async () => (await import("./verbs/logs.ts")).runLogs,
  stats: async () => (await import("./verbs/stats.ts")).runStats,
  events: async () => (await import("./verbs/events.ts")).runEvents,
  "net show": async () => (await import("./verbs/net.ts")).runNetShow,
  "net doctor": async () => (await import("./verbs/net.ts")).runNetDoctor,
  gc: async () => (await import("./verbs/gc.ts")).runGc,
  env: async () => (await import("./verbs/env.ts")).runEnv,
  check: async () => (await import("./verbs/check.ts")).runCheck,
  "config paths": async () => (await import("./verbs/config.ts")).runConfigPaths,
  "config show": async () => (await import("./verbs/config.ts")).runConfigShow,
  "config check": async () => (await import("./verbs/config.ts")).runConfigCheck,
  "factory init": async () => (await import("./verbs/factory.ts")).runFactoryInit,
  "factory status": async () => (await import("./verbs/factory.ts")).runFactoryStatus,
  "factory destroy": async () => (await import("./verbs/factory.ts")).runFactoryDestroy,
  collect: async () => (await import("./verbs/collect.ts")).runCollect,
  overhead: async () => (await import("./verbs/overhead.ts")).runOverhead,
  monitor: async () => (await import("./verbs/monitor.ts")).runMonitor,
  completion: async () => (await import("./verbs/completion.ts")).runCompletion,
};

/** Exit statuses by error code; the others are 1 (docs/cli.md). */
const statuses: Readonly<Record<string, number>> = {
  ERR_INVALID_ARGUMENT: 3,
  ERR_NOT_FOUND: 3,
  ERR_PERMISSION: 4,
  ERR_STATE: 5,
  ERR_UNAVAILABLE: 5,
  ERR_DEADLINE: 5,
};

const AS_ROOT = "; run this as root (sudo shim ...)";
const isRoot = () => process.getuid?.() === 0;

/** Runs one command line and resolves to the exit status. Errors are printed. */
export async function runShimCommand(argv: readonly string[], host: OperatorHost): Promise<number> {
  try {
    const invocation = parseCommandLine(shimProgram, argv);
    if (invocation.kind === "version") {
      host.stdout(`shim (Caisson) ${host.version}\n`);
      return 0;
    }
    if (invocation.kind === "help") {
      const { command } = invocation;
      host.stdout(command === undefined ? programHelp(shimProgram) : commandHelp(shimProgram, command));
      return 0;
    }
    const verb = await verbs[invocation.command.name]?.();
    if (verb === undefined)
      throw new SandboxError("ERR_INTERNAL", `the command ${invocation.command.name} has no handler`);
    return await verb(invocation.arguments, host);
  } catch (error) {
    host.stderr(`shim: ${describeError(error)}${errnoOf(error) === "EACCES" && !isRoot() ? AS_ROOT : ""}\n`);
    if (error instanceof UsageError) {
      host.stderr(tryHelp(shimProgram, argv));
      return 2;
    }
    if (error instanceof Interrupted) return error.status;
    if (error instanceof SandboxError) return statuses[error.code] ?? 1;
    if (errnoOf(error) === "EACCES") return statuses.ERR_PERMISSION ?? 1;
    if (host.env.CAISSON_DEBUG !== undefined && error instanceof Error) host.stderr(`${error.stack}\n`);
    return 1;
  }
}
