/** Debian's CNI plugins, run by hand in a world: what containerd's CNI library does, for any number of interfaces. */
import { join } from "node:path";
import { run, runOk } from "../../harness/run.ts";
import type { World } from "../../harness/world.ts";

/** Directory of the plugins, by Debian's package containernetworking-plugins. */
const PLUGINS = "/usr/lib/cni";

export interface CniResult {
  readonly ips: readonly { readonly address: string; readonly gateway?: string }[];
  readonly interfaces: readonly { readonly name: string; readonly mac: string; readonly sandbox?: string }[];
}

export type Plugin = { readonly type: string } & Readonly<Record<string, unknown>>;

/** Addresses of both families from ranges of their own, with default routes. */
export function hostLocal(world: World, network: number): Record<string, unknown> {
  return {
    type: "host-local",
    dataDir: join(world.dir, "ipam"),
    ranges: [[{ subnet: `10.${network}.0.0/24` }], [{ subnet: `fd00:${network}::/64` }]],
    routes: [{ dst: "0.0.0.0/0" }, { dst: "::/0" }],
  };
}

/** A bridge that is the gateway, and published ports. */
export function bridgeNetwork(world: World, network: number, extra: Record<string, unknown> = {}): Plugin[] {
  return [
    {
      type: "bridge",
      bridge: `br${network}`,
      isGateway: true,
      hairpinMode: true,
      ipam: hostLocal(world, network),
      ...extra,
    },
  ];
}

/** A network namespace of the world's, at /run/netns/NAME, and the interfaces that plugins made in it. */
export class CniPod {
  readonly name: string;
  readonly path: string;
  readonly #world: World;
  readonly #added: { ifname: string; plugins: readonly Plugin[]; result: CniResult; runtime: object }[] = [];

  private constructor(world: World, name: string) {
    this.#world = world;
    this.name = name;
    this.path = `/run/netns/${name}`;
  }

  /** The caller removes it. */
  static async create(world: World, name: string): Promise<CniPod> {
    await runOk(world.enter(["ip", "netns", "add", name]));
    return new CniPod(world, name);
  }

  /** Adds an interface with a chain of plugins. `runtime`: the capability arguments, e.g. portMappings. */
  async add(ifname: string, plugins: readonly Plugin[], runtime: object = {}): Promise<CniResult> {
    let result: CniResult | undefined;
    for (const plugin of plugins) result = await this.#call("ADD", ifname, plugin, runtime, result);
    if (result === undefined) throw new Error("a network has at least one plugin");
    this.#added.push({ ifname, plugins, result, runtime });
    return result;
  }

  async del(ifname: string): Promise<void> {
    const at = this.#added.findIndex((entry) => entry.ifname === ifname);
    const [entry] = this.#added.splice(at, 1);
    if (entry === undefined) throw new Error(`${ifname} was not added`);
    for (const plugin of [...entry.plugins].reverse())
      await this.#call("DEL", ifname, plugin, entry.runtime, entry.result);
  }

  /** CHECK of every interface: the plugins find what they made. */
  async check(): Promise<void> {
    for (const { ifname, plugins, runtime, result } of this.#added) {
      // portmap 1.1 looks for its IPv4 rules among those of IPv6 when the pod has both families.
      const checked = plugins.filter(({ type }) => type !== "portmap");
      for (const plugin of checked) await this.#call("CHECK", ifname, plugin, runtime, result);
    }
  }

  /** Output of a command inside the namespace. */
  async inside(...argv: string[]): Promise<string> {
    return (await runOk(this.#world.enter(["ip", "netns", "exec", this.name, ...argv]))).stdout;
  }

  async remove(): Promise<void> {
    for (const { ifname } of [...this.#added]) await this.del(ifname);
    await runOk(this.#world.enter(["ip", "netns", "del", this.name]));
  }

  async #call(
    command: "ADD" | "DEL" | "CHECK",
    ifname: string,
    plugin: Plugin,
    runtimeConfig: object,
    prevResult: CniResult | undefined,
  ): Promise<CniResult | undefined> {
    const env = {
      PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
      CNI_COMMAND: command,
      CNI_CONTAINERID: this.name,
      CNI_NETNS: this.path,
      CNI_IFNAME: ifname,
      CNI_PATH: PLUGINS,
    };
    const config = { cniVersion: "0.4.0", name: "test", ...plugin, runtimeConfig, prevResult };
    const argv = this.#world.enter([join(PLUGINS, plugin.type)]);
    const result = await run(argv, { env, input: JSON.stringify(config) });
    if (result.code !== 0)
      throw new Error(`${plugin.type} ${command} ${ifname}: ${result.stdout}${result.stderr}`);
    return command === "ADD" ? (JSON.parse(result.stdout) as CniResult) : undefined;
  }
}

/** The address without its prefix length, of the family that `v6` names. */
export function addressOf(result: CniResult, v6 = false): string {
  const found = result.ips.find(({ address }) => address.includes(":") === v6);
  if (found === undefined) throw new Error("the plugin gave no such address");
  return found.address.replace(/\/.*/, "");
}
