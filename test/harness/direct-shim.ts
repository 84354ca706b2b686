/**
 * A shim without containerd: started as containerd starts it, its Task API called directly, its events collected by a
 * ttrpc server of ours. For what `ctr` cannot ask for, and for the same calls to two shims side by side.
 */
import { spawn } from "node:child_process";
import { constants, copyFileSync, mkdirSync, openSync, symlinkSync, writeFileSync } from "node:fs";
import net from "node:net";
import { dirname, join } from "node:path";
import type { DescService } from "@bufbuild/protobuf";
import type { Any } from "@bufbuild/protobuf/wkt";
import { scaledMs } from "../../src/base/timeouts.ts";
import { Control } from "../../src/gen/caisson/control/v1/control_pb.ts";
import { Sandbox } from "../../src/gen/containerd/runtime/sandbox/v1/sandbox_pb.ts";
import { Events } from "../../src/gen/containerd/services/events/ttrpc/v1/events_pb.ts";
import { Task } from "../../src/gen/containerd/task/v2/task_pb.ts";
import type { OciSpec } from "../../src/oci/spec.ts";
import { sandboxDir, sandboxPaths } from "../../src/persist/run-dir.ts";
import {
  type Client,
  createClient,
  serveConnection,
  serviceHandlers,
  TtrpcClient,
} from "../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../src/ttrpc/node-stream.ts";
import { built } from "./paths.ts";
import { run, runOk } from "./run.ts";
import { type ConfigOverrides, writeShimConfig } from "./shim-config.ts";
import { WORLD_VARIABLE, type World } from "./world.ts";

/** Until an event that is to come has come. */
const EVENT_LIMIT_MS = 10_000;

export interface SeenEvent {
  readonly topic: string;
  readonly event: Any | undefined;
}

export interface DirectShimInit {
  readonly world: World;
  /** Id of the first container, or of the sandbox. */
  readonly id: string;
  /** The shim's program; ours when absent. */
  readonly program?: string;
  /** config.json of the bundle; absent for the sandbox API, whose bundle has none. */
  readonly spec?: OciSpec;
  readonly stdin?: Uint8Array;
  /** What its configuration file says besides the parts of this checkout. */
  readonly config?: ConfigOverrides;
  readonly env?: Readonly<Record<string, string>>;
}

interface LogReader {
  readonly text: () => string;
  readonly close: () => void;
}

interface Parts {
  readonly bundle: string;
  readonly answer: Buffer;
  readonly startMs: number;
  readonly events: SeenEvent[];
  readonly env: NodeJS.ProcessEnv;
  readonly eventServer: net.Server;
  readonly log: LogReader;
}

export class DirectShim implements AsyncDisposable {
  readonly id: string;
  readonly bundle: string;
  /** What `start` printed. */
  readonly answer: Buffer;
  /** Milliseconds that it took. */
  readonly startMs: number;
  readonly events: SeenEvent[];
  readonly #world: World;
  readonly #program: string;
  readonly #env: NodeJS.ProcessEnv;
  readonly #eventServer: net.Server;
  readonly #log: LogReader;
  readonly #clients: TtrpcClient[] = [];

  private constructor(init: DirectShimInit, parts: Parts) {
    this.id = init.id;
    this.bundle = parts.bundle;
    this.answer = parts.answer;
    this.startMs = parts.startMs;
    this.events = parts.events;
    this.#world = init.world;
    this.#program = init.program ?? built.shim;
    this.#env = parts.env;
    this.#eventServer = parts.eventServer;
    this.#log = parts.log;
  }

  /** Makes a bundle and runs `start` in it. The caller disposes of the shim before its world. */
  static async start(init: DirectShimInit): Promise<DirectShim> {
    const { world, id, spec } = init;
    const configFile = join(world.dir, `${id}.toml`);
    writeShimConfig(configFile, init.config);
    const bundle = makeBundle(world, id, spec);
    const log = await collectLog(join(bundle, "log"));
    const events: SeenEvent[] = [];
    const address = join(world.dir, `${id}.events`);
    const eventServer = await collectEvents(address, events);
    const env = {
      HOME: "/root",
      PATH: `${dirname(process.execPath)}:/usr/sbin:/usr/bin:/sbin:/bin`,
      CAISSON_CONF_FILE: configFile,
      TTRPC_ADDRESS: address,
      [WORLD_VARIABLE]: world.name,
      ...init.env,
    };
    const argv = [init.program ?? built.shim, ...flagsOf(world, id), "start"];
    // The working directory must be the bundle, and nsenter enters the world in its root. The shell stays, for runc's
    // shim looks at its parent, which must be a process of this world.
    const script = 'cd "$1" && shift && "$@"; exit $?';
    const [file = "", ...args] = world.enter(["sh", "-c", script, "sh", bundle, ...argv]);
    const begun = performance.now();
    const answer = await output(file, args, env, init.stdin);
    const startMs = performance.now() - begun;
    return new DirectShim(init, { bundle, answer, startMs, events, env, eventServer, log });
  }

  /** A client of one of the shim's services, on a connection of its own. */
  async connect<S extends DescService>(service: S, path = this.socketPath): Promise<Client<S>> {
    // What is in the scratch directory is reached without the detour, which makes the path too long for a socket.
    const shared = path.startsWith(this.#world.dir);
    const socket = await connectTo(shared ? path : this.#world.outside(path));
    const client = new TtrpcClient(byteStreamFromSocket(socket), { peer: "the shim" });
    this.#clients.push(client);
    return createClient(service, client, { timeoutMs: scaledMs(60_000) });
  }

  task(): Promise<Client<typeof Task>> {
    return this.connect(Task);
  }

  /** The operator's. */
  control(): Promise<Client<typeof Control>> {
    const identity = {
      namespace: this.#world.name,
      sandboxId: this.id,
      containerdAddress: containerdAddress(this.#world),
    };
    return this.connect(Control, sandboxPaths(sandboxDir(identity)).controlSocket);
  }

  sandbox(): Promise<Client<typeof Sandbox>> {
    return this.connect(Sandbox);
  }

  /** The socket in the plain answer. */
  get socketPath(): string {
    return /unix:\/\/([\w./-]+)/.exec(this.answer.toString("latin1"))?.[1] ?? "";
  }

  /** A bundle for a further container. */
  addBundle(id: string, spec: OciSpec): string {
    return makeBundle(this.#world, id, spec);
  }

  /** What the shim has logged so far. */
  log(): string {
    return this.#log.text();
  }

  topics(): string[] {
    return this.events.map((event) => event.topic);
  }

  /** Waits until an event with this topic was seen that `accepts` takes. @returns its bytes */
  async untilEvent(
    topic: string,
    accepts: (bytes: Uint8Array) => boolean = () => true,
    limitMs = EVENT_LIMIT_MS,
  ): Promise<Uint8Array> {
    const deadline = performance.now() + scaledMs(limitMs);
    for (;;) {
      for (const seen of this.events) {
        const bytes = seen.event?.value ?? new Uint8Array();
        if (seen.topic === topic && accepts(bytes)) return bytes;
      }
      if (performance.now() > deadline) throw new Error(`no ${topic} after ${limitMs} ms: ${this.topics()}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** The `delete` verb. @returns what it printed. */
  async delete(id = this.id): Promise<Buffer> {
    const bundle = join(this.#world.dir, "bundles", id);
    const argv = [this.#program, ...flagsOf(this.#world, id), "-bundle", bundle, "delete"];
    const [file = "", ...args] = this.#world.enter(argv);
    return await output(file, args, this.#env, undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.close();
    this.#eventServer.close();
    this.#log.close();
    await run(
      this.#world.enter([this.#program, ...flagsOf(this.#world, this.id), "-bundle", this.bundle, "delete"]),
      {
        env: this.#env,
      },
    );
  }
}

/** An OCI spec that runs `args` in the busybox tree as root, with what any runtime's default has. */
export function busyboxSpec(world: World, id: string, args: readonly string[]): OciSpec {
  const capabilities = ["CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD"];
  return {
    ociVersion: "1.0.2",
    process: {
      args: [...args],
      cwd: "/",
      env: ["PATH=/bin"],
      user: { uid: 0, gid: 0 },
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    },
    root: { path: "rootfs" },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755"] },
      {
        destination: "/dev/pts",
        type: "devpts",
        source: "devpts",
        options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
      },
      { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
    ],
    linux: {
      cgroupsPath: `/${world.name}/${id}`,
      namespaces: ["pid", "ipc", "uts", "mount", "network"].map((type) => ({ type })),
      resources: { devices: [{ allow: true, access: "rwm" }] },
    },
  };
}

/** A directory with busybox and its applets, made once per world, as a mount for Create. */
export async function busyboxRootfs(
  world: World,
): Promise<{ type: string; source: string; options: string[] }> {
  const source = join(world.dir, "busybox-root");
  try {
    mkdirSync(source);
  } catch {
    return bindOf(source); // it is there already
  }
  for (const name of ["bin", "dev", "proc", "sys", "tmp", "root", "etc"]) mkdirSync(join(source, name));
  copyFileSync(built.busybox, join(source, "bin/busybox"));
  const applets = (await runOk([built.busybox, "--list"])).stdout.trim().split("\n");
  for (const name of applets) if (name !== "busybox") symlinkSync("busybox", join(source, "bin", name));
  writeFileSync(join(source, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
  return bindOf(source);
}

const bindOf = (source: string) => ({ type: "bind", source, options: ["rbind", "rw"] });

const containerdAddress = (world: World) => join(world.dir, "c.sock");

const flagsOf = (world: World, id: string) => [
  ...["-namespace", world.name, "-address", containerdAddress(world)],
  ...["-publish-binary", "/usr/bin/containerd", "-id", id],
];

function makeBundle(world: World, id: string, spec: OciSpec | undefined): string {
  const bundle = join(world.dir, "bundles", id);
  mkdirSync(join(bundle, "rootfs"), { recursive: true });
  if (spec !== undefined) writeFileSync(join(bundle, "config.json"), JSON.stringify(spec));
  return bundle;
}

async function collectEvents(address: string, events: SeenEvent[]): Promise<net.Server> {
  const handlers = serviceHandlers(Events, {
    forward: ({ envelope }) => {
      events.push({ topic: envelope?.topic ?? "", event: envelope?.event });
      return {};
    },
  });
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.unref(); // a shim that was killed leaves its connections to us
    serveConnection(byteStreamFromSocket(socket), [handlers]);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(address, resolve);
  });
  server.unref();
  return server;
}

function connectTo(path: string): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(path);
    socket.once("connect", () => resolve(socket));
    socket.once("error", reject);
  });
}

/** Runs a verb to its end. @returns its standard output as bytes. @throws with its stderr. */
function output(
  file: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  stdin: Uint8Array | undefined,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      env,
      stdio: [stdin === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    });
    const out: Buffer[] = [];
    const errors: Buffer[] = [];
    child.stdout?.on("data", (chunk: Buffer) => out.push(chunk));
    child.stderr?.on("data", (chunk: Buffer) => errors.push(chunk));
    child.stdin?.end(stdin);
    child.once("error", reject);
    child.once("close", (code) => {
      if (code === 0) resolve(Buffer.concat(out));
      else
        reject(new Error(`${args.join(" ")}: exit ${code}: ${Buffer.concat(errors)}${Buffer.concat(out)}`));
    });
  });
}

/** A pipe as containerd makes it for a shim's log, and its reader. */
async function collectLog(path: string): Promise<LogReader> {
  await runOk(["mkfifo", path]);
  const socket = new net.Socket({
    fd: openSync(path, constants.O_RDWR | constants.O_NONBLOCK),
    readable: true,
    writable: false,
  });
  let text = "";
  socket.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  socket.unref();
  return { text: () => text, close: () => void socket.destroy() };
}
