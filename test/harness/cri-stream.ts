/**
 * The streams behind CRI's Exec, Attach and PortForward: a WebSocket (RFC 6455) to the daemon's streaming server with
 * Kubernetes' subprotocol v4.channel.k8s.io, in which the first byte of each message names the channel. In 1.6 to 2.1 of
 * containerd a client of it cannot close one channel only.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { scaledMs } from "../../src/base/timeouts.ts";
import { built } from "./paths.ts";
import type { World } from "./world.ts";

/** Channels of exec and attach (k8s.io/apiserver pkg/util/wsstream, remotecommand). */
export const Channel = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4 } as const;

const SUBPROTOCOL = "v4.channel.k8s.io";
const OPCODE = { binary: 2, close: 8, ping: 9, pong: 10 } as const;
const WAIT_LIMIT_MS = scaledMs(20_000);

/** How a command ended, as Kubernetes' Status object on the error channel says it. */
export interface StreamStatus {
  readonly status: string;
  readonly message?: string;
  readonly details?: { readonly causes?: readonly { readonly reason: string; readonly message: string }[] };
}

export class CriStream {
  readonly #child: ChildProcess;
  readonly #channels = new Map<number, Buffer[]>();
  #pending: Buffer = Buffer.alloc(0);
  #headersEnd = false;
  #failure: Error | undefined;
  /** Resolves when the server has ended the connection. */
  readonly closed: Promise<void>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.stdout?.on("data", (chunk: Buffer) => this.#take(chunk));
    child.stdin?.on("error", () => undefined);
    this.closed = new Promise((resolve) => child.once("close", () => resolve()));
  }

  /** Opens `url` from within the world, where the streaming server listens. The caller closes the stream. */
  static async open(world: World, url: string): Promise<CriStream> {
    const { hostname, port, pathname, search } = new URL(url);
    const [file = "", ...args] = world.enter([built.busybox, "nc", hostname, port]);
    const child = spawn(file, args, { stdio: ["pipe", "pipe", "ignore"] });
    const stream = new CriStream(child);
    child.stdin?.write(
      [
        `GET ${pathname}${search} HTTP/1.1`,
        `Host: ${hostname}:${port}`,
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}`,
        `Sec-WebSocket-Protocol: ${SUBPROTOCOL}`,
        "",
        "",
      ].join("\r\n"),
    );
    await stream.#until(() => stream.#headersEnd, "an answer of the streaming server");
    return stream;
  }

  /** Everything that came on a channel so far. */
  bytes(channel: number): Buffer {
    return Buffer.concat(this.#channels.get(channel) ?? []);
  }

  text(channel: number): string {
    return this.bytes(channel).toString();
  }

  send(channel: number, data: string | Uint8Array): void {
    this.#frame(OPCODE.binary, Buffer.concat([Buffer.of(channel), Buffer.from(data)]));
  }

  resize(columns: number, rows: number): void {
    this.send(Channel.resize, JSON.stringify({ Width: columns, Height: rows }));
  }

  /** Waits until `expected` was received on a channel. @throws after 20 s. */
  async received(channel: number, expected: string): Promise<void> {
    await this.#until(() => this.text(channel).includes(expected), `"${expected}" on channel ${channel}`);
  }

  /** How the command ended. @throws after 20 s. */
  async status(): Promise<StreamStatus> {
    await this.#until(() => this.bytes(Channel.error).length > 0, "the command's status");
    await this.closed;
    return JSON.parse(this.text(Channel.error)) as StreamStatus;
  }

  close(): void {
    this.#frame(OPCODE.close, Buffer.alloc(0));
    this.#child.stdin?.end();
    this.#child.kill("SIGKILL");
  }

  async #until(condition: () => boolean, what: string): Promise<void> {
    const deadline = performance.now() + WAIT_LIMIT_MS;
    while (!condition()) {
      if (this.#failure !== undefined) throw this.#failure;
      if (performance.now() > deadline) {
        const seen = [...this.#channels.keys()].map((key) => `${key}: ${JSON.stringify(this.text(key))}`);
        throw new Error(`waited 20 s for ${what}; received ${seen.join(", ") || "nothing"}`);
      }
      await sleep(10);
    }
  }

  /** A client masks what it sends (RFC 6455 5.3); the mask may be zero. */
  #frame(opcode: number, payload: Buffer): void {
    const { length } = payload;
    const size = length < 126 ? Buffer.of(0x80 | length) : Buffer.of(0x80 | 126, length >> 8, length & 0xff);
    if (length > 0xffff) throw new Error("a message of over 64 KiB is not offered");
    this.#child.stdin?.write(Buffer.concat([Buffer.of(0x80 | opcode), size, Buffer.alloc(4), payload]));
  }

  #take(chunk: Buffer): void {
    this.#pending = Buffer.concat([this.#pending, chunk]);
    if (!this.#headersEnd) {
      const end = this.#pending.indexOf("\r\n\r\n");
      if (end < 0) return;
      const head = this.#pending.subarray(0, end).toString();
      if (!head.startsWith("HTTP/1.1 101"))
        this.#failure = new Error(`the streaming server refused: ${head}`);
      this.#pending = this.#pending.subarray(end + 4);
      this.#headersEnd = true;
    }
    for (let size = this.#takeFrame(); size > 0; size = this.#takeFrame()) {
      this.#pending = this.#pending.subarray(size);
    }
  }

  /** @returns the bytes of the frame at the start of what is pending; 0 when it is not complete. */
  #takeFrame(): number {
    const buffer = this.#pending;
    if (buffer.length < 2) return 0;
    const opcode = (buffer[0] ?? 0) & 0x0f;
    const short = (buffer[1] ?? 0) & 0x7f;
    const header = short < 126 ? 2 : short === 126 ? 4 : 10;
    if (buffer.length < header) return 0;
    const length =
      short < 126 ? short : short === 126 ? buffer.readUInt16BE(2) : Number(buffer.readBigUInt64BE(2));
    if (buffer.length < header + length) return 0;
    const payload = Buffer.from(buffer.subarray(header, header + length));
    if (opcode === OPCODE.ping) this.#frame(OPCODE.pong, payload);
    if (opcode === OPCODE.close) this.#child.stdin?.end();
    if (opcode <= OPCODE.binary && payload.length > 1) {
      const channel = payload[0] ?? 0;
      const parts = this.#channels.get(channel) ?? [];
      this.#channels.set(channel, parts);
      parts.push(payload.subarray(1));
    }
    return header + length;
  }
}
