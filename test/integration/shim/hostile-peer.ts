/**
 * An agent of the test's own in the place of a guest's, for a real shim with a real QEMU, virtiofsd and vsock backend.
 *
 * The shim is configured with a vsock program that is a script: it tells us the sandbox's directory, links the backend's
 * socket to one of ours, and becomes the real backend with other sockets, so that QEMU has its device. What the shim
 * dials it dials here, and the hello comes from here. The real agent's hello is accepted and never answered.
 */
import { execFileSync } from "node:child_process";
import { constants, openSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import type { ByteStream } from "../../../src/base/byte-stream.ts";
import { Agent, Host } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { FramedStream } from "../../../src/streams/index.ts";
import {
  type Client,
  createClient,
  type ServiceHandlers,
  serveConnection,
  serviceHandlers,
  TtrpcClient,
} from "../../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../../src/ttrpc/node-stream.ts";
import { HELLO_PORT } from "../../../src/vsock/hybrid-transport.ts";
import { built } from "../../harness/paths.ts";
import type { World } from "../../harness/world.ts";

const AGENT_PORT = 1024;
const STDIO_PORT = 1025;

/** Called with what the shim dialled, the port read and accepted, nothing sent yet. */
export type OnDial = (socket: net.Socket, port: number) => void;

/** A service of the agent that agrees to everything; tests replace parts of it. */
export const agreeable: ServiceHandlers<typeof Agent> = {
  createSandbox: () => ({}),
  applyNetwork: () => ({}),
  createContainer: () => ({ pid: 7 }),
  createExec: () => ({}),
  startProcess: () => ({ pid: 7 }),
  signalProcess: () => ({}),
  deleteProcess: () => ({}),
  containerStats: () => ({}),
  listProcesses: () => ({}),
  shutdown: () => ({}),
};

export class HostilePeer implements AsyncDisposable {
  readonly config: Readonly<Record<string, string>>;
  /** May be replaced at any time; by default an agreeable agent whose processes say nothing. */
  onDial: OnDial;
  readonly #world: World;
  readonly #servers: net.Server[] = [];
  readonly #sockets = new Set<net.Socket>();
  readonly #directory: Promise<string>;

  /** @param name distinguishes peers of one world. */
  static async start(world: World, name: string): Promise<HostilePeer> {
    const peer = new HostilePeer(world, name);
    await Promise.all(
      peer.#servers.map((server) => new Promise<void>((done) => server.once("listening", done))),
    );
    return peer;
  }

  private constructor(world: World, name: string) {
    this.#world = world;
    this.onDial = (socket, port) => this.agree(socket, port, agreeable);
    const at = (suffix: string) => join(world.dir, `${name}.${suffix}`);
    this.#listen(at("u"), (socket) => this.#dialled(socket));
    this.#listen(at(`h_${HELLO_PORT}`), () => undefined);
    execFileSync("mkfifo", [at("dir")]);
    const told = new net.Socket({
      fd: openSync(at("dir"), constants.O_RDWR | constants.O_NONBLOCK),
      readable: true,
      writable: false,
    });
    this.#keep(told);
    this.#directory = new Promise((resolve) => {
      told.once("data", (chunk: Buffer) => resolve(chunk.toString().trim()));
    });
    const script = `#!/bin/sh
dir=$(dirname "$4")
echo "$dir" > "${at("dir")}" || exit 1
ln -s "${at("u")}" "$6" || exit 1
exec "${built.vsockBackend}" "$1" "$2" "$3" "$4" "$5" "${at("h")}"
`;
    writeFileSync(at("sh"), script, { mode: 0o755 });
    this.config = {
      "hypervisor.qemu.vhost_user_vsock_daemon": at("sh"),
      "runtime.internetworking_model": "none",
    };
  }

  /** A connection to the shim's hello listener, which is the first thing a guest makes. */
  async dialHost(): Promise<net.Socket> {
    const directory = await this.#directory;
    const path = join(this.#world.outside(directory), `u_${HELLO_PORT}`);
    return await new Promise((resolve, reject) => {
      const socket = net.connect({ path, allowHalfOpen: true });
      this.#keep(socket);
      socket.once("connect", () => resolve(socket)).once("error", reject);
    });
  }

  /** Says hello as an agent would. @returns what further calls of the guest go through. */
  async greet(protocolVersion = 1): Promise<{ host: Client<typeof Host>; socket: net.Socket }> {
    const socket = await this.dialHost();
    const host = createClient(Host, new TtrpcClient(byteStreamFromSocket(socket)), { timeoutMs: 20_000 });
    await host.hello({ protocolVersion, agentVersion: "0" });
    return { host, socket };
  }

  /** Serves one connection of the shim's as an agent would, with `handlers`; stdio streams are taken and ended. */
  agree(socket: net.Socket, port: number, handlers: ServiceHandlers<typeof Agent>): void {
    const stream = byteStreamFromSocket(socket);
    if (port === AGENT_PORT) serveConnection(stream, [serviceHandlers(Agent, handlers)]);
    else if (port === STDIO_PORT) void endStdio(stream);
    else socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    for (const server of this.#servers) server.close();
  }

  #listen(path: string, take: (socket: net.Socket) => void): void {
    const server = net.createServer({ allowHalfOpen: true }, (socket) => {
      this.#keep(socket);
      take(socket);
    });
    server.listen(path);
    this.#servers.push(server);
  }

  #keep(socket: net.Socket): void {
    this.#sockets.add(socket);
    socket.on("error", () => undefined);
    socket.once("close", () => this.#sockets.delete(socket));
  }

  /** "CONNECT <port>\n" is answered as the backend answers it. */
  #dialled(socket: net.Socket): void {
    socket.once("data", (chunk: Buffer) => {
      socket.pause();
      const port = Number(/^CONNECT (\d+)\n/.exec(chunk.toString("latin1"))?.[1]);
      socket.write("OK 1\n");
      this.onDial(socket, port);
      socket.resume();
    });
  }
}

/** Takes a stream, says nothing, takes everything. */
async function endStdio(connection: ByteStream): Promise<void> {
  try {
    const { stream } = await FramedStream.accept(connection);
    stream.confirm();
    await stream.sendEof();
    for await (const _ of stream.readable);
  } catch {
    // The shim has ended it.
  }
}
