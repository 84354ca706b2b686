/**
 * The vhost-device-vsock program: AF_VSOCK in the guest, unix sockets on the host.
 *
 *   <dir>/v        vhost-user: QEMU connects to it
 *   <dir>/u        we connect, send "CONNECT <port>\n" and read "OK <n>\n"; closed without a word: refused
 *   <dir>/u_N      we listen; the guest's connections to host port N (HELLO_PORT) arrive here
 *
 * The names are short because a unix socket's path has 108 bytes (sun_path, unix(7)).
 */
import { existsSync, readFileSync, watch } from "node:fs";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { ByteStream } from "../base/byte-stream.ts";
import { withDeadline } from "../base/deadline.ts";
import { SandboxError } from "../base/errors.ts";
import { timeoutMs } from "../base/timeouts.ts";
import { UndoStack } from "../base/undo.ts";
import { toByteStream } from "./byte-stream.ts";
import { dialHybrid } from "./hybrid-dial.ts";
import { UnixAcceptor } from "./unix-acceptor.ts";
import type { BackendProcess, VsockTransport, VsockTransportInit } from "./vsock-transport.ts";

const NAME = "vhost-device-vsock";

/** Any CID does: each process of the backend has a space of its own. */
const GUEST_CID = 3;

/**
 * Where the guest dials for its hello. The program numbers our connections from 0 on, and refuses all further ones, for
 * ever, once it comes to a port of its own that the guest is connected to (0.3.0, allocate_local_port): with 1024, a
 * sandbox would be out of reach after 1023 streams. This is the last port there is (VMADDR_PORT_ANY less one).
 */
export const HELLO_PORT = 0xfffffffe;

/** sun_path with its final NUL. */
const SUN_PATH_BYTES = 108;

export async function openHybridTransport(
  init: VsockTransportInit,
  signal: AbortSignal,
): Promise<VsockTransport> {
  const deviceSocket = path.join(init.dir, "v");
  const dialSocket = path.join(init.dir, "u");
  const helloSocket = `${dialSocket}_${HELLO_PORT}`;
  if (Buffer.byteLength(helloSocket) >= SUN_PATH_BYTES) {
    throw new SandboxError("ERR_CONFIG", `the run directory ${init.dir} is too long for unix sockets`);
  }
  const file = init.daemonPath();
  await using undo = new UndoStack();
  const acceptor = undo.use("hello listener", await UnixAcceptor.listen(helloSocket));
  const created = watchFor(deviceSocket);
  undo.defer("directory watch", created.stop);
  const args = ["--guest-cid", `${GUEST_CID}`, "--socket", deviceSocket, "--uds-path", dialSocket];
  const child = undo.use("vsock backend", await init.spawn(NAME, file, args));
  await withDeadline(
    ready(created.seen, child, deviceSocket),
    timeoutMs("daemonReady"),
    `starting ${NAME}`,
    signal,
  );
  created.stop();
  return new HybridTransport(deviceSocket, dialSocket, acceptor, undo.move());
}

/** Resolves when the backend listens at `socket`; rejects when it ends before. */
async function ready(created: Promise<void>, child: BackendProcess, socket: string): Promise<void> {
  let over = false;
  const ended = child.exited.then(async () => {
    over = true;
    // `crashed`, when it is to come, comes with the exit.
    const reason = await Promise.race([child.crashed, Promise.resolve(undefined)]);
    throw new SandboxError("ERR_HOST", `${NAME} ended before it was ready`, { cause: reason });
  });
  const listening = created.then(async () => {
    // The name appears with bind(2), and there is no event for the listen(2) that follows at once.
    while (!over && !isListening(socket)) await delay(1);
  });
  await Promise.race([listening, ended]);
}

/** Whether somebody listens at the path: flag SO_ACCEPTCON (0x10000) in /proc/net/unix (proc(5)). */
export function isListening(socket: string): boolean {
  return readFileSync("/proc/net/unix", "utf8")
    .split("\n")
    .some((line) => {
      // Num RefCount Protocol Flags Type St Inode Path; the path may hold spaces.
      const fields = /^\S+ \S+ \S+ (\S+) \S+ \S+ +\d+ (.*)$/.exec(line);
      return fields?.[2] === socket && (Number.parseInt(fields[1] ?? "0", 16) & 0x10000) !== 0;
    });
}

/** Tells when `file` has come into being in its directory. */
function watchFor(file: string): { readonly seen: Promise<void>; readonly stop: () => void } {
  const watcher = watch(path.dirname(file));
  const seen = new Promise<void>((resolve, reject) => {
    watcher.on("change", () => {
      if (existsSync(file)) resolve();
    });
    watcher.once("error", reject);
  });
  seen.catch(() => undefined);
  return { seen, stop: () => watcher.close() };
}

class HybridTransport implements VsockTransport {
  readonly device: { readonly kind: "vhost-user-vsock"; readonly socketPath: string };
  readonly helloPort = HELLO_PORT;
  readonly #dialSocket: string;
  readonly #acceptor: UnixAcceptor;
  readonly #undo: UndoStack;

  constructor(deviceSocket: string, dialSocket: string, acceptor: UnixAcceptor, undo: UndoStack) {
    this.device = { kind: "vhost-user-vsock", socketPath: deviceSocket };
    this.#dialSocket = dialSocket;
    this.#acceptor = acceptor;
    this.#undo = undo;
  }

  async accept(signal: AbortSignal): Promise<ByteStream> {
    return toByteStream(await this.#acceptor.accept(signal));
  }

  async dial(port: number, signal: AbortSignal): Promise<ByteStream> {
    return toByteStream(await dialHybrid(this.#dialSocket, port, signal));
  }

  deviceInherited(): void {
    // QEMU connects by itself; there is no descriptor of ours.
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#undo.disposeAsync();
  }
}
