/**
 * The operator's end of the debug console (docs/protocol.md, "Console"): sends the tools, opens a process, carries its
 * bytes. Knows nothing of terminals; the caller gives and takes bytes.
 */
import { createHash, randomBytes } from "node:crypto";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import type { ByteStream } from "../base/byte-stream.ts";
import { withDeadline } from "../base/deadline.ts";
import { SandboxError } from "../base/errors.ts";
import { timeoutMs } from "../base/timeouts.ts";
import { ConsoleOpenSchema } from "../gen/caisson/agent/v1/agent_pb.ts";
import { FramedStream, type FramedStreamOptions } from "../streams/index.ts";

/** Makes a new connection to the console of one guest. */
export type ConsoleDialer = () => Promise<ByteStream>;

export interface ConsoleCommand {
  /** Empty for a shell. */
  readonly argv: readonly string[];
  /** Further variables, NAME=value. */
  readonly env: readonly string[];
  /** Enter this container's namespaces; empty for the guest. */
  readonly containerId: string;
  /** The terminal's size, or undefined for pipes. */
  readonly terminal: { readonly columns: number; readonly rows: number } | undefined;
  /** Who asks, for the log. */
  readonly client: string;
}

/** A running process. `close` ends it when it has not ended by itself. */
export interface ConsoleSession {
  /** With a terminal, everything; else stdout. For one reader. */
  readonly stdout: AsyncIterable<Uint8Array>;
  /** Nothing with a terminal. */
  readonly stderr: AsyncIterable<Uint8Array>;
  write(bytes: Uint8Array): Promise<void>;
  /** No more input will come. */
  endInput(): Promise<void>;
  resize(columns: number, rows: number): void;
  /** Resolves with the exit status after the last output was taken. @throws when the connection was lost before. */
  readonly exited: Promise<number>;
  close(): void;
}

/** Tools in the guest, for as long as it is not released. */
export interface ToolsLease {
  release(): void;
}

async function* nothing(): AsyncGenerator<Uint8Array, void, undefined> {}

/** Sees to it that the guest has `program`, a static busybox. @throws SandboxError why it cannot be used there */
export async function leaseTools(dial: ConsoleDialer, program: Uint8Array): Promise<ToolsLease> {
  const sha256 = createHash("sha256").update(program).digest("hex");
  let settle: { resolve: () => void; reject: (error: unknown) => void };
  const usable = new Promise<void>((resolve, reject) => {
    settle = { resolve, reject };
  });
  const stream = await openStream(
    dial,
    { tools: { sha256, bytes: BigInt(program.length) } },
    { windowBytes: 0, onExit: () => settle.resolve() },
  );
  void stream.closed.then((error) => settle.reject(failure(error)));
  // Nothing is sent where the guest has them already: it grants no credit then.
  stream.send(program).catch(() => undefined);
  try {
    await withDeadline(usable, timeoutMs("consoleTools"), "sending the tools to the guest");
  } catch (error) {
    stream.reset("");
    throw error;
  }
  return { release: () => stream.reset("") };
}

/**
 * Starts a process. Resolves when it runs.
 * @throws SandboxError ERR_START_PROCESS when it cannot be executed, ERR_STATE for a container that does not run
 */
export async function openConsole(dial: ConsoleDialer, command: ConsoleCommand): Promise<ConsoleSession> {
  const { terminal } = command;
  const session = terminal === undefined ? randomBytes(8).toString("hex") : "";
  const errors = session === "" ? undefined : await begin(dial, { session, stderr: true });
  let exit: number | undefined;
  const stream = await openStream(
    dial,
    {
      argv: [...command.argv],
      env: [...command.env],
      containerId: command.containerId,
      client: command.client,
      session,
      terminal: terminal !== undefined,
      columns: terminal?.columns ?? 0,
      rows: terminal?.rows ?? 0,
    },
    {
      onExit: (status) => {
        exit = status;
      },
    },
  ).catch((error: unknown) => {
    errors?.reset("");
    throw error;
  });
  const exited = ended(stream, errors, () => exit);
  // For whoever waits for it; nobody has to.
  exited.catch(() => undefined);
  return {
    stdout: stream.readable,
    stderr: errors?.readable ?? nothing(),
    write: (bytes) => stream.send(bytes),
    endInput: () => stream.sendEof(),
    resize: (columns, rows) => void stream.sendResize(columns, rows).catch(() => undefined),
    exited,
    close: () => {
      stream.reset("");
      errors?.reset("");
    },
  };
}

async function ended(
  stream: FramedStream,
  errors: FramedStream | undefined,
  status: () => number | undefined,
): Promise<number> {
  // The status comes before the guest's EOF; the connection may break behind both.
  const error = await stream.closed;
  await errors?.closed;
  const exit = status();
  if (exit === undefined) throw failure(error);
  return exit;
}

async function begin(
  dial: ConsoleDialer,
  open: MessageInitShape<typeof ConsoleOpenSchema>,
  options: FramedStreamOptions = {},
): Promise<FramedStream> {
  return FramedStream.open(
    await dial(),
    toBinary(ConsoleOpenSchema, create(ConsoleOpenSchema, open)),
    options,
  );
}

async function openStream(
  dial: ConsoleDialer,
  open: MessageInitShape<typeof ConsoleOpenSchema>,
  options: FramedStreamOptions,
): Promise<FramedStream> {
  const stream = await begin(dial, open, options);
  try {
    await withDeadline(stream.opened, timeoutMs("agentCall"), "opening the debug console");
    return stream;
  } catch (error) {
    stream.reset("");
    throw failure(error);
  }
}

/** The agent's own error, which it sends as "CODE: text" in the reason of a reset. */
function failure(error: unknown): SandboxError {
  const text = error instanceof Error ? error.message : "the console's connection ended";
  const found = /(ERR_(?:STATE|NOT_FOUND|START_PROCESS|EXHAUSTED|HOST|DEADLINE)): (.*)$/s.exec(text);
  if (found?.[1] !== undefined && found[2] !== undefined) {
    return new SandboxError(found[1] as "ERR_STATE", found[2]);
  }
  return error instanceof SandboxError ? error : new SandboxError("ERR_UNAVAILABLE", text, { cause: error });
}

/** Where the guest keeps the tools (docs/protocol.md), and a PATH that begins there. */
export const TOOLS_BIN = "/run/caisson/tools/bin";
