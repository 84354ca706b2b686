/** `shim exec`: a command or a shell in the guest, or in a container's namespaces. */
import { spawnSync } from "node:child_process";
import { describeError, SandboxError } from "../../base/errors.ts";
import { type Arguments, UsageError } from "../../cli/index.ts";
import { openAccess, openTools } from "../console-access.ts";
import { type ConsoleSession, openConsole, TOOLS_BIN } from "../console-client.ts";
import { chooseContainer } from "../find-target.ts";
import { Interrupted, type OperatorHost } from "../host.ts";

/** As docker and podman have them: the program itself failed; the command cannot be executed; it was not found. */
const STATUS_FAILED = 125;
const STATUS_NOT_EXECUTABLE = 126;
const STATUS_NOT_FOUND = 127;
/** 128 + SIGPIPE, as a shell shows a writer whose reader has gone. */
const STATUS_PIPE = 141;

const SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

export async function runExec(args: Arguments, host: OperatorHost): Promise<number> {
  try {
    return await execute(args, host);
  } catch (error) {
    if (!(error instanceof SandboxError)) throw error;
    host.stderr(`shim: ${describeError(error)}\n`);
    if (error.code !== "ERR_START_PROCESS") return STATUS_FAILED;
    return /not found|no such file/.test(error.message) ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE;
  }
}

async function execute(args: Arguments, host: OperatorHost): Promise<number> {
  const wrong = args.values("env").find((variable) => !/^[^=]+=/.test(variable));
  if (wrong !== undefined) throw new UsageError(`--env takes NAME=VALUE, not "${wrong}"`);
  const access = await openAccess(args.operands[0] ?? "", host);
  const wanted = args.value("container");
  const containerId = wanted === undefined ? "" : chooseContainer(wanted, access.view);
  const { stdin, stdout } = host.streams;
  const interactive = args.flag("tty") || (stdin.isTTY === true && stdout.isTTY === true);
  const lease = await openTools(access, host, containerId === "");
  try {
    const session = await openConsole(access.dial, {
      argv: args.rest,
      env: [
        ...(containerId === "" ? guestEnvironment(access.view.record.id) : []),
        ...(interactive ? [`TERM=${host.env.TERM ?? "xterm"}`] : []),
        ...args.values("env"),
      ],
      containerId,
      client: access.client,
      terminal: interactive ? { columns: stdout.columns ?? 80, rows: stdout.rows ?? 24 } : undefined,
    });
    return await (interactive ? attachTerminal(session, host) : attachPipes(session, host));
  } finally {
    lease?.release();
  }
}

/** The prompt says where one is: it looks like any other shell otherwise. */
function guestEnvironment(sandbox: string): string[] {
  return [`PATH=${TOOLS_BIN}:${SYSTEM_PATH}`, "HOME=/", "USER=root", `PS1=${sandbox.slice(0, 12)}:\\w# `];
}

async function attachTerminal(session: ConsoleSession, host: OperatorHost): Promise<number> {
  const { stdin, stdout } = host.streams;
  const resize = () => session.resize(stdout.columns ?? 80, stdout.rows ?? 24);
  const raw = stdin.isTTY === true;
  if (raw) enterRawMode(stdin);
  stdout.on("resize", resize);
  try {
    return await attach(session, host);
  } finally {
    stdout.off("resize", resize);
    if (raw) stdin.setRawMode(false);
  }
}

/**
 * Node's raw mode leaves output processing on, and the guest's terminal has done that already: a second carriage return
 * would go before each line feed. Left by setRawMode(false) and at the program's end, as the terminal was before.
 */
function enterRawMode(stdin: NodeJS.ReadStream): void {
  stdin.setRawMode(true);
  spawnSync("stty", ["-opost"], { stdio: ["inherit", "ignore", "ignore"] });
}

const attachPipes = (session: ConsoleSession, host: OperatorHost): Promise<number> => attach(session, host);

async function attach(session: ConsoleSession, { streams, signal }: OperatorHost): Promise<number> {
  let ending: number | undefined;
  const give = (status: number) => {
    ending ??= status;
    session.close();
  };
  const interrupted = () => give(signal.reason instanceof Interrupted ? signal.reason.status : STATUS_FAILED);
  signal.addEventListener("abort", interrupted, { once: true });
  const input = forwardInput(session, streams.stdin);
  try {
    const outputs = [
      forwardOutput(session.stdout, streams.stdout, () => give(STATUS_PIPE)),
      forwardOutput(session.stderr, streams.stderr, () => give(STATUS_PIPE)),
    ];
    await Promise.all(outputs);
    return await session.exited;
  } catch (error) {
    if (ending !== undefined) return ending;
    throw error;
  } finally {
    signal.removeEventListener("abort", interrupted);
    input.stop();
  }
}

/** Sends what comes in, in order, no faster than the guest takes it; then its end. */
function forwardInput(session: ConsoleSession, stdin: NodeJS.ReadStream): { stop(): void } {
  // What cannot be sent any more is not missed: the command has ended.
  const ignore = () => undefined;
  const take = (chunk: Buffer) => {
    stdin.pause();
    session.write(chunk).then(() => stdin.resume(), ignore);
  };
  const ended = () => void session.endInput().catch(ignore);
  stdin.on("data", take);
  stdin.once("end", ended);
  stdin.once("error", ended);
  return {
    stop() {
      stdin.off("data", take).off("end", ended).off("error", ended);
      stdin.pause();
      if (stdin.isTTY !== true) stdin.destroy();
    },
  };
}

async function forwardOutput(
  chunks: AsyncIterable<Uint8Array>,
  to: NodeJS.WriteStream,
  broken: () => void,
): Promise<void> {
  to.on("error", broken);
  try {
    for await (const chunk of chunks) {
      await new Promise<void>((resolve) => {
        to.write(chunk, () => resolve());
      });
    }
  } finally {
    to.off("error", broken);
  }
}
