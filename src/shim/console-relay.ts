/**
 * Joins connections from the operator's console socket to the guest's console port, and logs each use. The bytes pass
 * as they are; of the frames only the first one of the client and the guest's EXIT are looked at.
 */
import type net from "node:net";
import { fromBinary } from "@bufbuild/protobuf";
import type { ByteStream } from "../base/byte-stream.ts";
import { describeError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { type ConsoleOpen, ConsoleOpenSchema } from "../gen/caisson/agent/v1/agent_pb.ts";
import {
  encodeFrame,
  encodeReason,
  FrameDecoder,
  FrameType,
  MAX_FRAME_BYTES,
  readU32,
} from "../streams/index.ts";
import { toByteStream } from "../vsock/byte-stream.ts";

export interface ConsoleRelayDeps {
  readonly log: Log;
  /** Connects to the console port of the guest. @throws why there is none */
  readonly dial: (signal: AbortSignal) => Promise<ByteStream>;
  /** A process was opened by somebody, or ended. */
  readonly onEvent: (kind: "console-opened" | "console-closed", containerId: string, detail: string) => void;
}

/** Milliseconds that a client may leave a finished connection open. */
const LINGER_MS = 2_000;
/** Characters of a command that are logged. */
const COMMAND_LIMIT = 500;

export class ConsoleRelay {
  readonly #deps: ConsoleRelayDeps;
  readonly #closing = new AbortController();
  readonly #open = new Set<ByteStream>();
  #sessions = 0;

  constructor(deps: ConsoleRelayDeps) {
    this.#deps = deps;
  }

  /** Processes that run now. */
  get sessions(): number {
    return this.#sessions;
  }

  /** Serves one client to its end. Owns the socket. Never rejects. */
  async serve(socket: net.Socket): Promise<void> {
    socket.allowHalfOpen = true;
    const client = toByteStream(socket);
    this.#open.add(client);
    try {
      const guest = await this.#deps.dial(this.#closing.signal);
      this.#open.add(guest);
      try {
        await new Relay(client, guest, this.#deps, (change) => {
          this.#sessions += change;
        }).run();
      } finally {
        this.#open.delete(guest);
      }
    } catch (error) {
      const reason = encodeReason(`ERR_UNAVAILABLE: the guest cannot be reached: ${describeError(error)}`);
      await client.write(encodeFrame(FrameType.Reset, reason)).catch(() => undefined);
    }
    this.#open.delete(client);
    await closeAfterPeer(socket);
  }

  /** Ends every connection. */
  close(): void {
    this.#closing.abort();
    for (const stream of this.#open) stream.destroy();
  }
}

class Relay {
  readonly #client: ByteStream;
  readonly #guest: ByteStream;
  readonly #deps: ConsoleRelayDeps;
  readonly #count: (change: number) => void;
  #command: { readonly open: ConsoleOpen; readonly startedAt: number } | undefined;
  #status: number | undefined;

  constructor(
    client: ByteStream,
    guest: ByteStream,
    deps: ConsoleRelayDeps,
    count: (change: number) => void,
  ) {
    this.#client = client;
    this.#guest = guest;
    this.#deps = deps;
    this.#count = count;
  }

  async run(): Promise<void> {
    const fromClient = this.#carryToGuest();
    try {
      await this.#carryToClient();
    } finally {
      this.#guest.destroy();
      this.#closed();
    }
    // Ends when the client has closed; not waited for.
    fromClient.catch(() => undefined);
  }

  async #carryToGuest(): Promise<void> {
    const decoder = new FrameDecoder();
    let seen = false;
    try {
      for await (const chunk of this.#client.readable) {
        if (!seen) {
          for (const { type, payload } of decoder.push(chunk)) {
            seen = true;
            if (type === FrameType.Open) this.#opened(fromBinary(ConsoleOpenSchema, payload));
            break;
          }
        }
        // The user-space vsock backend stalls on larger writes (docs/protocol.md).
        for (let at = 0; at < chunk.length; at += MAX_FRAME_BYTES)
          await this.#guest.write(chunk.subarray(at, at + MAX_FRAME_BYTES));
      }
    } finally {
      // A client that is gone has nothing more to receive, and its process is to end.
      this.#guest.destroy();
    }
  }

  async #carryToClient(): Promise<void> {
    const decoder = new FrameDecoder();
    for await (const chunk of this.#guest.readable) {
      for (const { type, payload } of decoder.push(chunk)) {
        if (type === FrameType.Exit) this.#status = readU32(payload, 0);
      }
      await this.#client.write(chunk);
    }
  }

  #opened(open: ConsoleOpen): void {
    if (open.tools !== undefined || open.stderr) return;
    this.#command = { open, startedAt: performance.now() };
    this.#count(1);
    const command = commandOf(open);
    this.#deps.log.info(
      { op: "console", client: open.client, container: open.containerId || undefined, command },
      "debug console opened",
    );
    this.#deps.onEvent("console-opened", open.containerId, `${command} (${open.client})`);
  }

  #closed(): void {
    if (this.#command === undefined) return;
    const { open, startedAt } = this.#command;
    this.#command = undefined;
    this.#count(-1);
    const durMs = Math.round(performance.now() - startedAt);
    const status = this.#status;
    this.#deps.log.info(
      { op: "console", client: open.client, status, durMs },
      status === undefined ? "debug console ended without a status" : "debug console closed",
    );
    const ending = status === undefined ? "broken off" : `status ${status}`;
    this.#deps.onEvent("console-closed", open.containerId, `${commandOf(open)}: ${ending}`);
  }
}

function commandOf({ argv }: ConsoleOpen): string {
  return argv.length === 0 ? "shell" : argv.join(" ").slice(0, COMMAND_LIMIT);
}

/** Half-closes and waits, for a bounded time, until the client has read everything and closed. */
async function closeAfterPeer(socket: net.Socket): Promise<void> {
  socket.end();
  socket.resume();
  if (!socket.destroyed) {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, LINGER_MS);
      socket.once("close", () => {
        clearTimeout(timer);
        resolve();
      });
    });
  }
  socket.destroy();
}
