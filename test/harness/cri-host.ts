/**
 * A node of one: an isolated world with containerd, its CRI plugin, CNI's bridge and our shim, and the calls that a
 * kubelet would make. Pods of our runtime and of runc run side by side.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Containerd, type ContainerdVersion, startContainerd } from "./containerd.ts";
import { type CriClient, connectCri } from "./cri-client.ts";
import { criConfiguration, withHostDevices } from "./cri-configuration.ts";
import { importPodImages } from "./cri-images.ts";
import { Pod, type PodInit } from "./cri-pod.ts";
import { assertEven, type LedgerSnapshot, takeSnapshot } from "./leak-ledger.ts";
import { assertSetUp } from "./paths.ts";
import { type ConfigOverrides, writeShimConfig } from "./shim-config.ts";
import { createWorld, removeCgroups, type World } from "./world.ts";

/** Names of the runtime handlers, as a RuntimeClass would give them. */
export type Handler = "caisson" | "runc";

export interface CriHostInit {
  readonly version?: ContainerdVersion;
  /** The shim's configuration beyond the defaults of the tests. */
  readonly config?: ConfigOverrides;
  /** Our pods are made through the Sandbox API, without a pause container (containerd 2). */
  readonly sandboxer?: "shim";
}

/** In the command line of the node's containerd. */
const CONTAINERD = "containerd --config ";

export class CriHost implements AsyncDisposable {
  readonly world: World;
  readonly containerd: Containerd;
  readonly cri: CriClient;
  readonly configFile: string;
  readonly #pods = new Set<Pod>();
  #before: LedgerSnapshot;
  #count = 0;

  private constructor(world: World, containerd: Containerd, cri: CriClient, configFile: string) {
    this.world = world;
    this.containerd = containerd;
    this.cri = cri;
    this.configFile = configFile;
    this.#before = takeSnapshot(world, [containerd.bundles]);
  }

  /** The caller disposes of it. */
  static async start(init: CriHostInit = {}): Promise<CriHost> {
    assertSetUp();
    const world = await createWorld();
    try {
      return await CriHost.#startIn(world, init);
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  static async #startIn(world: World, init: CriHostInit): Promise<CriHost> {
    const configFile = join(world.dir, "configuration.toml");
    writeShimConfig(configFile, init.config);
    writeNetwork(world);
    const containerd = await startContainerd({
      world,
      version: init.version ?? "system",
      namespace: "k8s.io",
      cri: criConfiguration({
        version: init.version ?? "system",
        networkDirectory: networkDirectory(world),
        sandboxer: init.sandboxer,
      }),
      env: { CAISSON_CONF_FILE: configFile },
    });
    const cri = connectCri(containerd.address);
    await importPodImages(containerd, cri);
    return new CriHost(world, containerd, cri, configFile);
  }

  /** Kills containerd and starts it again; its CRI answers a moment later. */
  async restartContainerd(): Promise<void> {
    const processes = (now: LedgerSnapshot, daemon: boolean) =>
      [...(now.get("process") ?? [])].filter((entry) => entry.includes(CONTAINERD) === daemon);
    await this.containerd.stop("SIGKILL");
    await this.containerd.start();
    const expected = [...processes(this.#before, false), ...processes(takeSnapshot(this.world), true)];
    this.#before = new Map(this.#before).set("process", new Set(expected));
  }

  /** Replaces the shim's configuration for the pods that start from now on. */
  configure(overrides: ConfigOverrides = {}): void {
    writeShimConfig(this.configFile, overrides);
  }

  /** A directory of its own for what a test puts on the "node": volumes, files. */
  directory(name: string): string {
    this.#count += 1;
    const path = join(this.world.dir, "volumes", `${this.#count}-${name}`);
    mkdirSync(path, { recursive: true });
    return path;
  }

  /** Runs a new pod. `release` or the host's end removes it. */
  async runPod(handler: Handler, init: PodInit = {}): Promise<Pod> {
    this.#count += 1;
    const pod = await Pod.run(this.cri, {
      name: `pod${this.#count}`,
      handler: init.hostDevices === true ? withHostDevices(handler) : handler,
      directory: join(this.world.dir, "pods", String(this.#count)),
      cgroupParent: `/${this.world.name}/pod${this.#count}`,
      init,
    });
    this.#pods.add(pod);
    return pod;
  }

  /** Stops and removes a pod with all its containers. */
  async release(pod: Pod): Promise<void> {
    this.#pods.delete(pod);
    await pod.remove();
  }

  /** Removes every pod that is left and checks that nothing of any pod is. */
  async assertNothingLeft(): Promise<void> {
    for (const pod of this.#pods) await this.release(pod);
    // The bridge is the node's; and runc leaves the parents of its cgroups, which the kubelet would remove.
    removeCgroups(this.world.name);
    const before = new Map(this.#before);
    before.set("network device", new Set([...(before.get("network device") ?? []), "cni0"]));
    try {
      await assertEven(this.world, before, [this.containerd.bundles]);
    } catch (error) {
      if (error instanceof Error) error.message += `\n${this.#logAbout(error.message)}`;
      throw error;
    }
  }

  /** What containerd's log, and the shims' in it, say of the containers whose ids stand in `text`. */
  #logAbout(text: string): string {
    const ids = [...new Set(text.match(/[0-9a-f]{64}/g))];
    const lines = this.containerd.log().split("\n");
    return ids
      .flatMap((id) => [
        `--- containerd's log of ${id} ---`,
        ...lines.filter((line) => line.includes(id)).slice(-LOG_LINES),
      ])
      .join("\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cri.close();
    await this.containerd[Symbol.asyncDispose]();
    await this.world[Symbol.asyncDispose]();
  }
}

/** Lines of the log that an error has of each container. */
const LOG_LINES = 40;

const networkDirectory = (world: World) => join(world.dir, "cni");

/** The world's network namespace is its own: no address here meets any of the machine's. */
function writeNetwork(world: World): void {
  const directory = networkDirectory(world);
  mkdirSync(directory, { recursive: true });
  const bridge = {
    type: "bridge",
    bridge: "cni0",
    isGateway: true,
    hairpinMode: true,
    ipam: {
      type: "host-local",
      dataDir: join(world.dir, "ipam"),
      ranges: [[{ subnet: "10.88.0.0/16" }]],
      routes: [{ dst: "0.0.0.0/0" }],
    },
  };
  const network = { cniVersion: "0.4.0", name: "test", plugins: [bridge] };
  writeFileSync(join(directory, "10-test.conflist"), JSON.stringify(network));
}
