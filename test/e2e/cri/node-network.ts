/** The node around CRI pods: CNI networks that replace each other, servers outside of the pods, clients on the node. */
import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { scaledMs } from "../../../src/base/timeouts.ts";
import type { CriHost } from "../../harness/cri-host.ts";
import { type RunResult, run, runOk } from "../../harness/run.ts";
import { hostLocal } from "../net/cni.ts";
import { buildNetTool, startServers } from "../net/net-host.ts";

/** The CRI learns of a changed network by a file event. */
const NETWORK_LIMIT_MS = scaledMs(10_000);

export class NodeNetwork {
  readonly #host: () => CriHost;
  #stopServers: (() => Promise<void>) | undefined;

  constructor(host: () => CriHost) {
    this.#host = host;
  }

  /** Builds the tool and starts the servers; stopServers() ends them. Once, before anything else. */
  async start(): Promise<void> {
    mkdirSync(this.toolDirectory);
    await buildNetTool(join(this.toolDirectory, "net-tool"));
    this.#stopServers = await startServers(this.#host().world);
  }

  /** A directory of the node with net-tool, to be mounted into containers. */
  get toolDirectory(): string {
    return join(this.#host().world.dir, "net");
  }

  /** An address manager of both families; the node is the gateway, 10.NUMBER.0.1 and fd00:NUMBER::1. */
  ipam(number: number): Record<string, unknown> {
    return hostLocal(this.#host().world, number);
  }

  /** The network of pods that start, and of pods that are removed, from now on. */
  async use(name: string, plugins: readonly object[]): Promise<void> {
    const { world, cri } = this.#host();
    const file = join(world.dir, "cni", "10-test.conflist");
    // By renaming: the runtime looks at a file as soon as it changes.
    writeFileSync(`${file}.new`, JSON.stringify({ cniVersion: "0.4.0", name, plugins }));
    renameSync(`${file}.new`, file);
    const deadline = performance.now() + NETWORK_LIMIT_MS;
    for (;;) {
      const { info } = await cri.runtime.status({ verbose: true });
      if (info.cniconfig?.includes(`"Name":"${name}"`)) return;
      if (performance.now() > deadline) throw new Error(`the CRI does not take ${name}: ${info.cniconfig}`);
      await sleep(50);
    }
  }

  /** Output of a command on the node. */
  async node(...argv: string[]): Promise<string> {
    return (await this.#ran(argv)).stdout;
  }

  tryNode(...argv: string[]): Promise<RunResult> {
    return run(this.#host().world.enter(argv));
  }

  /** A document of a pod's web server. */
  get(address: string, port: number, path: string): Promise<string> {
    return this.node(join(this.toolDirectory, "net-tool"), "get", address, String(port), path);
  }

  /** The answer of a UDP server. */
  ask(address: string, port: number, text: string): Promise<string> {
    return this.node(join(this.toolDirectory, "net-tool"), "ask", address, String(port), text);
  }

  async stopServers(): Promise<void> {
    await this.#stopServers?.();
    this.#stopServers = undefined;
  }

  #ran(argv: readonly string[]): Promise<RunResult> {
    return runOk(this.#host().world.enter(argv));
  }
}
