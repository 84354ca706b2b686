/** A test host with the tools of the network tests: net-tool in the image, servers outside of the pods. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { importBusybox } from "../../harness/images.ts";
import { repositoryRoot } from "../../harness/paths.ts";
import { describeResult, type RunResult, run, runOk } from "../../harness/run.ts";
import { TestHost } from "../../harness/test-host.ts";
import type { World } from "../../harness/world.ts";
import { CniPod } from "./cni.ts";

const here = (name: string) => join(repositoryRoot, "test/e2e/net", name);

export interface Guest {
  readonly id: string;
  /** Runs a command in the guest's container; a failure is an error. */
  sh(script: string): Promise<string>;
}

export class NetHost {
  readonly test: TestHost;
  readonly tool: string;
  #pods = 0;

  constructor(test: TestHost, tool: string) {
    this.test = test;
    this.tool = tool;
  }

  /** Output of a command in the world: the node on which the pods run. */
  async node(...argv: string[]): Promise<string> {
    return (await runOk(this.test.world.enter(argv))).stdout;
  }

  tryNode(...argv: string[]): Promise<RunResult> {
    return run(this.test.world.enter(argv));
  }

  /** A document of a server; `prefix`: a command that runs the request elsewhere. */
  get(address: string, port: number, path: string, ...prefix: string[]): Promise<string> {
    return this.node(...prefix, this.tool, "get", address, String(port), path);
  }

  /** The answer of a UDP server in a guest, asked from the node. */
  ask(address: string, text: string): Promise<string> {
    return this.node(this.tool, "ask", address, "9000", text);
  }

  newPod(): Promise<CniPod> {
    this.#pods += 1;
    return CniPod.create(this.test.world, `pod${this.#pods}`);
  }

  /** A container in the pod's namespace that serves /etc on TCP port 80 and echoes UDP on port 9000 in capitals. */
  async runIn(pod: CniPod, script = ""): Promise<Guest> {
    const command = `httpd -h /etc; net-tool serve 9000 & ${script} touch /tmp/ready; exec sleep 1000`;
    const id = await this.test.runDetached(["sh", "-c", command], {
      flags: ["--with-ns", `network:${pod.path}`, "--privileged"],
    });
    const guest = this.guest(id);
    await guest.sh("until [ -e /tmp/ready ]; do sleep 0.1; done");
    await this.settled();
    return guest;
  }

  /** Until the node's IPv6 addresses are checked for duplicates: it sends from others as long, which lead nowhere. */
  async settled(): Promise<void> {
    await this.node("sh", "-c", 'until [ -z "$(ip -6 addr show tentative)" ]; do sleep 0.1; done');
  }

  guest(id: string): Guest {
    return {
      id,
      sh: async (script) => {
        const result = await this.test.exec(id, ["sh", "-c", script]);
        if (result.code !== 0) throw new Error(describeResult(result));
        return result.stdout;
      },
    };
  }
}

/** As withTestHost(), for the tests of this directory. */
export function withNetHost(): { netTest: (name: string, body: (net: NetHost) => Promise<void>) => void } {
  let net: NetHost | undefined;
  before(async () => {
    const host = await TestHost.start();
    const { world, containerd } = host;
    const tool = join(world.dir, "net-tool");
    net = new NetHost(host, tool);
    await buildNetTool(tool);
    await importBusybox(containerd, {
      entries: [{ path: "bin/net-tool", mode: 0o755, content: readFileSync(tool) }],
    });
    await startServers(world);
  });
  after(async () => {
    await net?.test[Symbol.asyncDispose]();
  });
  const netTest = (name: string, body: (net: NetHost) => Promise<void>): void => {
    void test(name, async () => {
      if (net === undefined) throw new Error("the network host is not started");
      const started = net;
      started.test.configure();
      await started.test.ledgered(() => body(started));
    });
  };
  return { netTest };
}

/** Compiles net-tool.c, static, to the path `target`. */
export async function buildNetTool(target: string): Promise<void> {
  const flags = ["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-s"];
  await runOk(["gcc", ...flags, "-o", target, here("net-tool.c")]);
}

/** What servers.mjs offers, in the world's own namespace. They end with the world, or by the function that is given. */
export async function startServers(world: World): Promise<() => Promise<void>> {
  const [file = "", ...args] = world.enter([process.execPath, here("servers.mjs")]);
  const servers = spawn(file, args, { stdio: ["pipe", "pipe", "inherit"] });
  await once(servers.stdout, "data");
  servers.stdout.destroy();
  servers.unref();
  (servers.stdin as unknown as { unref(): void }).unref();
  return async () => {
    servers.stdin.end();
    if (servers.exitCode === null) await once(servers, "exit");
  };
}

/** Lines of `ip route` of either program, without what only tells who made a route, and what each kernel makes. */
export function routeLines(text: string): string[] {
  return text
    .split("\n")
    .map((line) =>
      line
        .replace(/ proto \w+| pref medium|^multicast .*/g, "")
        .replace(/\s+/g, " ")
        .trim(),
    )
    .filter((line) => line !== "" && !line.startsWith("fe80"))
    .sort();
}

/** Lines of `ip rule` of either program: iproute2 marks a device that is not there, busybox names no table by a name. */
export function ruleLines(text: string): string[] {
  return text
    .split("\n")
    .map((line) =>
      line
        .replace(/ \[detached\]| lookup unspec/g, "")
        .replace(/\s+/g, " ")
        .trim(),
    )
    .filter((line) => line !== "");
}

/** Every address but the link-local ones, which each kernel makes, as "interface address/prefix", of `ip -o addr` of either program. */
export function addressLines(text: string): string[] {
  const found = [...text.matchAll(/^\d+: (\S+) +inet6? (\S+)/gm)].map(
    ([, dev, address]) => `${dev} ${address}`,
  );
  return found.filter((line) => !line.includes(" fe80")).sort();
}
