/**
 * CRI-O's side of `runtime_type = "vm"`, call for call (cri-o internal/oci/runtime_vm.go): the shim started with nothing
 * but an id, an address from its output, task API v2, root file systems that are mounted already, a configuration path in
 * the runtime options, files in the bundle instead of events, and never a `delete` verb. CRI-O is not in Debian.
 */
import { spawn } from "node:child_process";
import {
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import net from "node:net";
import { dirname, join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { Task } from "../../src/gen/containerd/task/v2/task_pb.ts";
import { OptionsSchema } from "../../src/gen/runtimeoptions/v1/options_pb.ts";
import type { OciMount, OciResources, OciSpec } from "../../src/oci/spec.ts";
import { type Client, createClient, TtrpcClient } from "../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../src/ttrpc/node-stream.ts";
import { busyboxRootfs, busyboxSpec } from "./direct-shim.ts";
import { built } from "./paths.ts";
import { runOk } from "./run.ts";
import { type ConfigOverrides, writeShimConfig } from "./shim-config.ts";
import { WORLD_VARIABLE, type World } from "./world.ts";

/** CRI-O's shims are all in containerd's default namespace, whatever the pod's is. */
const NAMESPACE = "default";
const MIB = 1 << 20;

export interface CrioContainerInit {
  readonly args?: readonly string[];
  readonly mounts?: readonly OciMount[];
  readonly resources?: OciResources;
  readonly terminal?: boolean;
  readonly stdin?: boolean;
  readonly annotations?: Readonly<Record<string, string>>;
}

export interface CrioExec {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

/** A host with CRI-O's directories. The caller disposes of the world. */
export class CrioNode {
  readonly world: World;
  /** The file that `runtime_config_path` names. */
  readonly configPath: string;
  #count = 0;

  constructor(world: World, overrides: ConfigOverrides = {}) {
    this.world = world;
    this.configPath = join(world.dir, "from-crio.toml");
    writeShimConfig(this.configPath, overrides);
  }

  /** Runs a pod: its infra container is created and started. */
  async runPod(annotations: Readonly<Record<string, string>> = {}): Promise<CrioPod> {
    const number = ++this.#count;
    await runOk(this.world.enter(["ip", "netns", "add", `crio${number}`]));
    const id = `pod${number}x`.padEnd(64, "0");
    const pod = new CrioPod(this, id, `/run/netns/crio${number}`);
    await pod.start(annotations);
    return pod;
  }

  /** A container's bundle with its root file system, mounted as containers/storage does. */
  async makeBundle(id: string, spec: OciSpec): Promise<{ bundle: string; rootfs: string }> {
    const bundle = join(this.world.dir, "containers", id, "userdata");
    const storage = join(this.world.dir, "storage", id);
    const rootfs = join(storage, "merged");
    for (const path of [bundle, rootfs, join(storage, "diff"), join(storage, "work")]) {
      mkdirSync(path, { recursive: true });
    }
    const { source } = await busyboxRootfs(this.world);
    const options = `lowerdir=${source},upperdir=${storage}/diff,workdir=${storage}/work`;
    await runOk(this.world.enter(["mount", "-t", "overlay", "-o", options, "overlay", rootfs]));
    writeFileSync(join(bundle, "config.json"), JSON.stringify({ ...spec, root: { path: rootfs } }));
    return { bundle, rootfs };
  }
}

export class CrioPod {
  readonly node: CrioNode;
  readonly id: string;
  readonly netns: string;
  readonly containers: CrioContainer[] = [];
  #count = 0;

  constructor(node: CrioNode, id: string, netns: string) {
    this.node = node;
    this.id = id;
    this.netns = netns;
  }

  async start(annotations: Readonly<Record<string, string>>): Promise<void> {
    const shm = join(this.node.world.dir, "containers", this.id, "shm");
    mkdirSync(shm, { recursive: true });
    const options = `size=${64 * MIB}`;
    await runOk(this.node.world.enter(["mount", "-t", "tmpfs", "-o", options, "shm", shm]));
    try {
      const infra = await this.#make(this.id, "sandbox", { args: ["/pause"], annotations });
      await infra.start();
    } catch (error) {
      await this.#release();
      throw error;
    }
  }

  /** Creates a container; nothing runs yet. */
  async create(init: CrioContainerInit = {}): Promise<CrioContainer> {
    const id = `ctr${++this.#count}-${this.id}`.slice(0, 64);
    return await this.#make(id, "container", init);
  }

  async run(init: CrioContainerInit = {}): Promise<CrioContainer> {
    const container = await this.create(init);
    await container.start();
    return container;
  }

  /** Stops and removes all containers, the infra container last, as StopPodSandbox and RemovePodSandbox do. */
  async remove(): Promise<void> {
    for (const container of [...this.containers].reverse()) {
      await container.stop(0);
      await container.remove();
    }
    await this.#release();
  }

  async #release(): Promise<void> {
    const { world } = this.node;
    await runOk(world.enter(["umount", join(world.dir, "containers", this.id, "shm")]));
    if (this.netns === "") return;
    await runOk(world.enter(["ip", "netns", "delete", this.netns.slice("/run/netns/".length)]));
  }

  async #make(id: string, type: "sandbox" | "container", init: CrioContainerInit): Promise<CrioContainer> {
    const { node } = this;
    const base = busyboxSpec(node.world, id, init.args ?? ["sleep", "1000000"]);
    const shm = join(node.world.dir, "containers", this.id, "shm");
    const spec: OciSpec = {
      ...base,
      hostname: "crio-pod",
      process: { ...base.process, terminal: init.terminal ?? false },
      annotations: {
        "io.container.manager": "cri-o",
        "io.kubernetes.cri-o.ContainerType": type,
        "io.kubernetes.cri-o.SandboxID": this.id,
        "io.kubernetes.cri-o.ContainerID": id,
        ...init.annotations,
      },
      mounts: [
        ...(base.mounts ?? []),
        { destination: "/dev/shm", type: "bind", source: shm, options: ["rw", "bind"] },
        ...(init.mounts ?? []),
      ],
      linux: {
        ...base.linux,
        resources: { ...base.linux?.resources, ...init.resources },
        namespaces: [
          { type: "pid" },
          { type: "mount" },
          // A pod of the host's network has none.
          ...(this.netns === "" ? [] : [{ type: "network", path: this.netns }]),
          { type: "ipc", path: "/var/run/ipcns/x" },
          { type: "uts", path: "/var/run/utsns/x" },
        ],
      },
    };
    const { bundle, rootfs } = await node.makeBundle(id, spec);
    const container = new CrioContainer(this, id, { bundle, rootfs, spec, stdin: init.stdin ?? false });
    this.containers.push(container);
    await container.create();
    return container;
  }

  forget(container: CrioContainer): void {
    const index = this.containers.indexOf(container);
    if (index >= 0) this.containers.splice(index, 1);
  }
}

interface ContainerParts {
  readonly bundle: string;
  readonly rootfs: string;
  readonly spec: OciSpec;
  readonly stdin: boolean;
}

/** Readers of a process's FIFOs. */
interface Fifos {
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
}

export class CrioContainer {
  readonly pod: CrioPod;
  readonly id: string;
  readonly bundle: string;
  readonly #parts: ContainerParts;
  #client: TtrpcClient | undefined;
  #task: Client<typeof Task> | undefined;
  #execs = 0;
  #output = { stdout: "", stderr: "" };
  #fifos: Fifos | undefined;
  #shimLog = "";
  readonly #sockets: net.Socket[] = [];
  /** What CRI-O writes into its exits directory. */
  exited: Promise<number> | undefined;

  constructor(pod: CrioPod, id: string, parts: ContainerParts) {
    this.pod = pod;
    this.id = id;
    this.bundle = parts.bundle;
    this.#parts = parts;
  }

  get task(): Client<typeof Task> {
    if (this.#task === undefined) throw new Error("runtime not correctly setup");
    return this.#task;
  }

  /** What came out of the container. */
  get stdout(): string {
    return this.#output.stdout;
  }
  get stderr(): string {
    return this.#output.stderr;
  }
  /** What the shim wrote to `<bundle>/log`. */
  get shimLog(): string {
    return this.#shimLog;
  }

  /** startRuntimeDaemon, then Create without any mount. A failure is cleaned up as CRI-O does. */
  async create(): Promise<void> {
    await this.#startRuntimeDaemon();
    this.#fifos = await this.#makeFifos("init", this.#parts.stdin);
    void this.#read(this.#fifos, this.#output);
    const value = toBinary(OptionsSchema, create(OptionsSchema, { configPath: this.pod.node.configPath }));
    try {
      await this.task.create({
        id: this.id,
        bundle: this.bundle,
        rootfs: [],
        terminal: this.#parts.spec.process?.terminal ?? false,
        ...this.#fifos,
        options: create(AnySchema, { typeUrl: "runtimeoptions.v1.Options", value }),
      });
    } catch (error) {
      await this.#forceDelete();
      throw error;
    }
  }

  async start(): Promise<void> {
    await this.task.start({ id: this.id });
    this.exited = this.task.wait({ id: this.id }).then(({ exitStatus }) => exitStatus);
    // A connection that a restart cuts is not this caller's trouble.
    this.exited.catch(() => undefined);
  }

  /** ExecSync: Exec with the container's own process and other arguments, Start, Wait, Delete. */
  async exec(cmd: readonly string[], timeoutSeconds = 0): Promise<CrioExec> {
    const execId = `exec${++this.#execs}`;
    const fifos = await this.#makeFifos(execId, false);
    const output = { stdout: "", stderr: "" };
    const closed = this.#read(fifos, output);
    const process = { ...this.#parts.spec.process, args: [...cmd], terminal: false };
    const value = Buffer.from(JSON.stringify(process));
    const typeUrl = "types.containerd.io/opencontainers/runtime-spec/1/Process";
    await this.task.exec({ id: this.id, execId, ...fifos, spec: create(AnySchema, { typeUrl, value }) });
    try {
      await this.task.start({ id: this.id, execId });
    } catch (error) {
      await this.task.delete({ id: this.id, execId });
      throw error;
    }
    const wait = this.task.wait({ id: this.id, execId }).then(({ exitStatus }) => exitStatus);
    const late = await this.#within(wait, timeoutSeconds);
    if (late) await this.task.kill({ id: this.id, execId, signal: 9, all: false });
    const exitCode = await wait;
    if (!late) await this.task.delete({ id: this.id, execId });
    await closed;
    return late ? { stdout: "", stderr: "command timed out", exitCode: -1 } : { ...output, exitCode };
  }

  /** Stop signal, all = false; SIGKILL when the time is over or 0. */
  async stop(timeoutSeconds: number): Promise<number> {
    const wait = this.task.wait({ id: this.id }).then(({ exitStatus }) => exitStatus);
    const kill = async (signal: number) => {
      // A container that has ended already is what was wanted.
      await this.task.kill({ id: this.id, signal, all: false }).catch(() => undefined);
    };
    if (timeoutSeconds > 0) {
      await kill(15);
      if (!(await this.#within(wait, timeoutSeconds))) return await wait;
    }
    await kill(9);
    return await wait;
  }

  /** DeleteContainer: Delete and Shutdown; then the storage is unmounted. */
  async remove(): Promise<void> {
    await this.task.delete({ id: this.id });
    await this.task.shutdown({ id: this.id }).catch(() => undefined);
    await this.#release();
  }

  /** CRI-O restarts: every connection is new, and the address is what the bundle says. */
  async restart(): Promise<void> {
    this.#client?.close();
    for (const socket of this.#sockets.splice(0)) socket.destroy();
    this.#task = undefined;
    await this.#connect(readFileSync(join(this.bundle, "address"), "utf8").trim());
    const state = await this.task.state({ id: this.id });
    this.#output = { stdout: "", stderr: "" };
    void this.#read({ stdin: state.stdin, stdout: state.stdout, stderr: state.stderr }, this.#output);
    this.exited = this.task.wait({ id: this.id }).then(({ exitStatus }) => exitStatus);
    this.exited.catch(() => undefined);
  }

  /** `IsContainerAlive`: signal 0. */
  async isAlive(): Promise<boolean> {
    return await this.task.kill({ id: this.id, signal: 0 }).then(
      () => true,
      () => false,
    );
  }

  /** Whether CRI-O would call it OOMKilled. */
  get oomKilled(): boolean {
    return existsSync(join(this.bundle, "oom"));
  }

  async #startRuntimeDaemon(): Promise<void> {
    await this.#readShimLog();
    const { world } = this.pod.node;
    const flags = ["-namespace", NAMESPACE, "-address", "", "-publish-binary", "/usr/bin/crio"];
    const argv = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", this.bundle];
    const [file = "", ...args] = world.enter([...argv, built.shim, ...flags, "-id", this.id, "start"]);
    const env = {
      HOME: "/root",
      PATH: `${dirname(process.execPath)}:/usr/sbin:/usr/bin:/sbin:/bin`,
      GOMAXPROCS: "2",
      TTRPC_ADDRESS: "",
      [WORLD_VARIABLE]: world.name,
    };
    const { code, output } = await combinedOutput(file, args, env);
    if (code !== 0) throw new Error(`${output}: exit status ${code}`);
    await this.#connect(output.trim());
  }

  async #connect(address: string): Promise<void> {
    const path = /^unix:\/\/(\/\S+)$/.exec(address)?.[1];
    if (path === undefined) throw new Error(`not an address: ${JSON.stringify(address)}`);
    const { world } = this.pod.node;
    // A short way to a path of the world, for the sake of sun_path.
    const link = join(world.dir, "s");
    if (!existsSync(link)) symlinkSync(world.outside(dirname(path)), link);
    const socket = net.connect(join(link, path.slice(dirname(path).length + 1)));
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    this.#client = new TtrpcClient(byteStreamFromSocket(socket), { peer: "the shim" });
    this.#task = createClient(Task, this.#client, { timeoutMs: 90_000 });
  }

  async #makeFifos(name: string, stdin: boolean): Promise<Fifos> {
    const dir = join(this.pod.node.world.dir, "fifo", this.id.slice(0, 12), name);
    mkdirSync(dir, { recursive: true });
    const paths = {
      stdin: stdin ? join(dir, "stdin") : "",
      stdout: join(dir, "stdout"),
      stderr: this.#parts.spec.process?.terminal === true ? "" : join(dir, "stderr"),
    };
    await runOk(["mkfifo", ...Object.values(paths).filter((path) => path !== "")]);
    return paths;
  }

  /** Resolves when both streams have ended. */
  #read(fifos: Fifos, into: { stdout: string; stderr: string }): Promise<unknown> {
    const ends = (["stdout", "stderr"] as const).map((name) => {
      if (fifos[name] === "") return undefined;
      const fd = openSync(fifos[name], constants.O_RDONLY | constants.O_NONBLOCK);
      const socket = new net.Socket({ fd, readable: true, writable: false });
      this.#sockets.push(socket);
      socket.on("data", (chunk: Buffer) => {
        into[name] += chunk.toString();
      });
      return new Promise((resolve) => socket.once("close", resolve));
    });
    return Promise.all(ends);
  }

  async #readShimLog(): Promise<void> {
    const path = join(this.bundle, "log");
    await runOk(["mkfifo", path]);
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const socket = new net.Socket({ fd, readable: true, writable: false });
    socket.on("data", (chunk: Buffer) => {
      this.#shimLog += chunk.toString();
    });
    socket.unref();
  }

  async #within(wait: Promise<unknown>, seconds: number): Promise<boolean> {
    if (seconds === 0) return false;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<boolean>((resolve) => {
      timer = setTimeout(() => resolve(true), seconds * 1000);
    });
    const result = await Promise.race([wait.then(() => false), late]);
    clearTimeout(timer);
    return result;
  }

  async #forceDelete(): Promise<void> {
    await this.task.delete({ id: this.id }).catch(() => undefined);
    await this.task.shutdown({ id: this.id }).catch(() => undefined);
    await this.#release();
  }

  async #release(): Promise<void> {
    this.#client?.close();
    for (const socket of this.#sockets.splice(0)) socket.destroy();
    this.pod.forget(this);
    await runOk(this.pod.node.world.enter(["umount", this.#parts.rootfs]));
  }
}

/** Standard output and error as one, as Go's CombinedOutput gives them. */
function combinedOutput(file: string, args: readonly string[], env: NodeJS.ProcessEnv) {
  return new Promise<{ code: number | null; output: string }>((resolve, reject) => {
    const child = spawn(file, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        output += chunk.toString();
      });
    }
    child.once("error", reject);
    // "close": Go waits for the end of the pipe too, which a daemon that kept it would never give.
    child.once("close", (code) => resolve({ code, output }));
  });
}
