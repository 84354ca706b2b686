/**
 * CRI-O's side of `runtime_type = "vm"`, call for call (cri-o internal/oci/runtime_vm.go): the shim started with nothing
 * but an id, an address from its output, task API v2, root file systems that are mounted already, a configuration path in
 * the runtime options, files in the bundle instead of events, and never a `delete` verb. CRI-O is not in Debian.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { OciMount, OciResources, OciSpec } from "../../src/oci/spec.ts";
import { CrioContainer } from "./crio-container.ts";
import { busyboxRootfs, busyboxSpec } from "./direct-shim.ts";
import { runOk } from "./run.ts";
import { type ConfigOverrides, writeShimConfig } from "./shim-config.ts";
import type { World } from "./world.ts";

const MIB = 1 << 20;

export interface CrioContainerInit {
  readonly args?: readonly string[];
  readonly mounts?: readonly OciMount[];
  readonly resources?: OciResources;
  readonly terminal?: boolean;
  readonly stdin?: boolean;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** A host with CRI-O's directories. The caller disposes of the world. */
export class CrioNode {
  readonly world: World;
  /** The file that `runtime_config_path` names. */
  readonly configPath: string;
  /** CRI-O itself logs at the level debug, and tells the shims to. */
  debug = false;
  readonly #pods: CrioPod[] = [];
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
    this.#pods.push(pod);
    await pod.start(annotations);
    return pod;
  }

  /** Lets go of what a test that failed has left: connections and pipes. */
  close(): void {
    for (const container of this.#pods.flatMap((pod) => pod.containers)) container.close();
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
        "io.kubernetes.cri-o.KubeName": "web-0",
        "io.kubernetes.cri-o.Namespace": "shop",
        "io.kubernetes.pod.name": "web-0",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.uid": "0b5c",
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
