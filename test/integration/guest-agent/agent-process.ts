/**
 * The real agent binary as a plain Linux process: listens on unix sockets in a directory of its own and says hello to a
 * ttrpc server of ours. Build it first (`npm run build`, or `node guest-agent/build.mjs`).
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { ByteStream } from "../../../src/base/byte-stream.ts";
import { withDeadline } from "../../../src/base/deadline.ts";
import { Agent, type Event, type HelloRequest, Host } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import {
  type Client,
  createClient,
  serveConnection,
  serviceHandlers,
  TtrpcClient,
} from "../../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../../src/ttrpc/node-stream.ts";

/** What the host takes at most of a guest (src/agent/guest-agent.ts). */
const HOST_LIMIT = 256 << 10;
const ANSWER_LIMIT = 1 << 20;

export const agentPath = fileURLToPath(new URL("../../../dist/guest/agent", import.meta.url));
const LIMIT_MS = 10_000;

export interface AgentOptions {
  /** Run it in new mount, UTS, network and pid namespaces, as PID 1 of the last. Needs root. */
  readonly ownNamespaces?: boolean;
  readonly logLevel?: string;
  readonly binary?: string;
}

/** Called for each Notify before it is answered; throwing refuses it. */
export type NotifyGate = (events: readonly Event[]) => void | Promise<void>;

/** What the host side of the connection has seen, shared with its handlers. */
interface HostSide {
  readonly events: Event[];
  gate: NotifyGate;
}

export class AgentProcess {
  readonly directory: string;
  readonly child: ChildProcess;
  readonly hello: HelloRequest;
  readonly calls: Client<typeof Agent>;
  stderr = "";
  readonly #host: HostSide;
  readonly #server: Server;
  readonly #hostSocket: Socket;
  readonly #client: TtrpcClient;
  #ownNamespaces = false;

  private constructor(
    directory: string,
    child: ChildProcess,
    server: Server,
    greeted: { hello: HelloRequest; socket: Socket },
    client: TtrpcClient,
    host: HostSide,
  ) {
    this.directory = directory;
    this.child = child;
    this.#server = server;
    this.hello = greeted.hello;
    this.#hostSocket = greeted.socket;
    this.#client = client;
    this.calls = createClient(Agent, client, { timeoutMs: LIMIT_MS });
    this.#host = host;
  }

  /** Every event that was acknowledged, in order. */
  get events(): readonly Event[] {
    return this.#host.events;
  }

  /** Decides about the Notify calls from now on. */
  set onNotify(gate: NotifyGate) {
    this.#host.gate = gate;
  }

  /** Pid of the agent itself, as this process sees it. */
  get pid(): number {
    const pid = this.child.pid ?? 0;
    // With namespaces of its own, the agent is the child of unshare.
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
    return this.#ownNamespaces ? Number(children.split(" ")[0]) : pid;
  }

  /** Descriptors that the agent has open. */
  get openDescriptors(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  static async start(options: AgentOptions = {}): Promise<AgentProcess> {
    const binary = options.binary ?? agentPath;
    if (!existsSync(binary)) throw new Error(`${binary} is missing: run "npm run build" first`);
    const directory = mkdtempSync(join(tmpdir(), "caisson-agent-"));
    const host: HostSide = { events: [], gate: () => undefined };
    const server = createServer();
    let child: ChildProcess | undefined;
    try {
      const greeting = awaitHello(server, options, host);
      server.listen(join(directory, "host.sock"));
      await once(server, "listening");
      child = spawnAgent(binary, directory, options.ownNamespaces ?? false);
      const greeted = await withDeadline(
        Promise.race([greeting, failedExit(child)]),
        LIMIT_MS,
        "the agent's hello",
      );
      const control = await dialUnix(join(directory, "1024"));
      const client = new TtrpcClient(control, { peer: "the agent", maxMessageBytes: ANSWER_LIMIT });
      const agent = new AgentProcess(directory, child, server, greeted, client, host);
      agent.#ownNamespaces = options.ownNamespaces ?? false;
      return agent.#collectStderr();
    } catch (error) {
      child?.kill("SIGKILL");
      server.close();
      rmSync(directory, { recursive: true, force: true });
      throw error;
    }
  }

  /** A fresh connection to one of the agent's ports. */
  dial(port: number): Promise<ByteStream> {
    return dialUnix(join(this.directory, String(port)));
  }

  /** A raw socket to one of the agent's ports, for bytes that no client of ours would send. */
  async dialRaw(port: number): Promise<Socket> {
    const socket = connect(join(this.directory, String(port)));
    await once(socket, "connect");
    return socket;
  }

  /** Resolves with the first event (past or future) that `matches`. */
  async event(matches: (event: Event) => boolean): Promise<Event> {
    const started = Date.now();
    for (;;) {
      const found = this.events.find(matches);
      if (found !== undefined) return found;
      if (Date.now() - started > LIMIT_MS) throw new Error("the event did not come");
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Ends the host's side of the hello connection, as a dying shim would. */
  dropHost(): void {
    this.#hostSocket.destroy();
  }

  async exited(): Promise<number | null> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      await withDeadline(once(this.child, "exit"), LIMIT_MS, "the agent's exit");
    }
    return this.child.exitCode;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client.close();
    this.#hostSocket.destroy();
    this.#server.close();
    if (this.child.exitCode === null && this.child.signalCode === null) {
      this.child.kill("SIGKILL");
      await once(this.child, "exit");
    }
    rmSync(this.directory, { recursive: true, force: true });
  }

  #collectStderr(): this {
    this.child.stderr?.on("data", (chunk: Buffer) => {
      this.stderr += chunk.toString();
    });
    return this;
  }
}

function spawnAgent(binary: string, directory: string, ownNamespaces: boolean): ChildProcess {
  const argv = [binary, "--listen-unix", directory];
  const namespaces = ["--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
  const [command = "", ...rest] = ownNamespaces ? ["unshare", ...namespaces, "--", ...argv] : argv;
  return spawn(command, rest, { stdio: ["ignore", "inherit", "pipe"] });
}

async function failedExit(child: ChildProcess): Promise<never> {
  let stderr = "";
  const collect = (chunk: Buffer) => {
    stderr += chunk.toString();
  };
  child.stderr?.on("data", collect);
  const [code, signal] = (await once(child, "exit")) as [number | null, string | null];
  throw new Error(`the agent ended before its hello (${code ?? signal}): ${stderr}`);
}

function awaitHello(
  server: Server,
  options: AgentOptions,
  host: HostSide,
): Promise<{ hello: HelloRequest; socket: Socket }> {
  return new Promise((resolve) => {
    server.on("connection", (socket) => {
      const handlers = serviceHandlers(Host, {
        hello(hello) {
          setImmediate(() => resolve({ hello, socket }));
          return { protocolVersion: 1, timeUnixNano: 0n, logLevel: options.logLevel ?? "info" };
        },
        async notify(request) {
          await host.gate(request.events);
          host.events.push(...request.events);
          return {};
        },
      });
      serveConnection(byteStreamFromSocket(socket), [handlers], { limits: { maxMessageBytes: HOST_LIMIT } });
    });
  });
}

async function dialUnix(path: string): Promise<ByteStream> {
  const socket = connect({ path, allowHalfOpen: true });
  const stream = byteStreamFromSocket(socket);
  await once(socket, "connect");
  return stream;
}
