/**
 * The guest's protobuf codec, which is native code of the agent's runtime, in a process: guest-agent/programs/messages.ts. An
 * operation, the name of a message and a value go in as JSON, with { $big } and { $bytes } for what JSON does not have; a
 * value or the name and message of an error come out.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";

const guestAgent = fileURLToPath(new URL("../../guest-agent", import.meta.url));

export type Operation =
  | "create"
  | "encode"
  | "decode"
  | "service"
  | "map"
  | "writeRequest"
  | "writeResponse"
  | "readRequest"
  | "readResponse";

/** What the guest has thrown. */
export class GuestError extends Error {
  constructor(name: string, message: string) {
    super(message);
    this.name = name;
  }
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

const tagged = (_: string, value: unknown): unknown => {
  if (typeof value === "bigint") return { $big: `${value}` };
  return value instanceof Uint8Array ? { $bytes: Buffer.from(value).toString("hex") } : value;
};
const untagged = (_: string, value: unknown): unknown => {
  const { $big, $bytes } = (value ?? {}) as { readonly $big?: string; readonly $bytes?: string };
  if ($big !== undefined) return BigInt($big);
  return $bytes === undefined ? value : new Uint8Array(Buffer.from($bytes, "hex"));
};

export class GuestMessages {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #waiting: Waiting[] = [];

  private constructor(path: string) {
    this.#child = spawn(path, [], { stdio: ["pipe", "pipe", "inherit"] });
    this.#child.unref();
    (this.#child.stdin as Socket).unref();
    // Its end is seen as that of its output; a write to it says less.
    this.#child.stdin.on("error", () => undefined);
    const lines = createInterface({ input: this.#child.stdout });
    lines.on("line", (line) => this.#answered(line));
    lines.on("close", () => this.#ended());
    this.#keepAlive(false);
  }

  /** Builds and starts it. It ends with the process or thread that started it. */
  static async start(): Promise<GuestMessages> {
    const directory = mkdtempSync(join(tmpdir(), "caisson-messages-"));
    try {
      const { buildGuestAgent } = (await import(pathToFileURL(join(guestAgent, "build.mjs")).href)) as {
        buildGuestAgent: (options: object) => Promise<{ path: string }>;
      };
      const entry = join(guestAgent, "programs/messages.ts");
      const { path } = await buildGuestAgent({ entry, outDir: directory, workDir: join(directory, "work") });
      return new GuestMessages(path);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  }

  /** @throws GuestError what the guest has thrown; Error when the process has ended */
  ask(op: Operation, message: string, value: unknown): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#keepAlive(true);
      this.#child.stdin.write(`${JSON.stringify({ op, message, value }, tagged)}\n`);
    });
  }

  [Symbol.dispose](): void {
    this.#child.kill("SIGKILL");
  }

  #answered(line: string): void {
    const { value, error, message } = JSON.parse(line, untagged) as {
      value?: unknown;
      error?: string;
      message?: string;
    };
    const waiting = this.#waiting.shift();
    if (this.#waiting.length === 0) this.#keepAlive(false);
    if (error === undefined) waiting?.resolve(value);
    else waiting?.reject(new GuestError(error, message ?? ""));
  }

  #ended(): void {
    const { exitCode, signalCode } = this.#child;
    const reason = new Error(`the guest's codec has ended (${exitCode ?? signalCode})`);
    for (const { reject } of this.#waiting.splice(0)) reject(reason);
  }

  #keepAlive(wanted: boolean): void {
    const output = this.#child.stdout as Socket;
    if (wanted) output.ref();
    else output.unref();
  }
}
