/**
 * A host for fault tests: a world with a pod network and a containerd whose shims read their fail points from a file,
 * with everything that a test needs to hit a process at a step and to see afterwards what is left.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { ArmedAction, FailPoint } from "../../src/base/failpoint.ts";
import { type Containerd, type ContainerdVersion, startContainerd } from "../harness/containerd.ts";
import { BUSYBOX_IMAGE, importBusybox } from "../harness/images.ts";
import { type LedgerSnapshot, leaksBetween, takeSnapshot } from "../harness/leak-ledger.ts";
import { assertSetUp, built } from "../harness/paths.ts";
import { describeResult, type RunOptions, type RunResult, run, runOk } from "../harness/run.ts";
import { type ConfigOverrides, writeShimConfig } from "../harness/shim-config.ts";
import { CAISSON_RUNTIME } from "../harness/test-host.ts";
import { childrenOf, createWorld, type World } from "../harness/world.ts";
import type { Way } from "./acquires.ts";
import { EventLog } from "./event-log.ts";

/** The processes of a sandbox on the host that a fault hits. */
export type Victim = "shim" | "qemu" | "virtiofsd" | "vsock";

const commandOf: Readonly<Record<Victim, RegExp>> = {
  shim: /^caisson-shim |\/lib\/shim-server\.cjs /,
  qemu: /\/qemu-system-x86_64 /,
  virtiofsd: /\/virtiofsd /,
  vsock: /\/vhost-device-vsock /,
};
/** The shim in any of its roles: `start`, the server, `delete`. */
const anyShim = /containerd-shim-caisson-v2|shim-server\.cjs|^caisson-shim/;
const POLL_MS = 10;
/** Milliseconds for a forked process to execute its program. */
const EXEC_LIMIT_MS = 5_000;
/** The guest's debug console (docs/protocol.md). */
const CONSOLE_PORT = 1026;
/** Milliseconds for the guest's panic to end QEMU. */
const AGENT_END_MS = 30_000;
/**
 * Configuration of a guest whose agent ends when its console is dialled. The kernel says nothing of its panic: a shim
 * that stands still reads nothing, and the guest would wait for it.
 */
export const AGENT_EXITS: ConfigOverrides = {
  "hypervisor.qemu.kernel_params": "caisson.failpoint=exit:console loglevel=0",
};
const NETNS = "pod";
const IN_POD = ["--with-ns", `network:/run/netns/${NETNS}`];

export interface FaultHostInit {
  readonly version?: ContainerdVersion;
  /** What the shims' environment has besides, given the world's directory. */
  readonly env?: (dir: string) => Readonly<Record<string, string>>;
}

export type RunFlags = RunOptions & { readonly flags?: readonly string[] };

export class FaultHost implements AsyncDisposable {
  readonly world: World;
  readonly containerd: Containerd;
  readonly events: EventLog;
  readonly configFile: string;
  readonly #failPoints: string;
  #ids = 0;

  private constructor(world: World, containerd: Containerd, configFile: string, failPoints: string) {
    this.world = world;
    this.containerd = containerd;
    this.events = new EventLog(containerd);
    this.configFile = configFile;
    this.#failPoints = failPoints;
  }

  /** The caller disposes of it. */
  static async start(init: FaultHostInit = {}): Promise<FaultHost> {
    assertSetUp();
    const world = await createWorld();
    const configFile = join(world.dir, "configuration.toml");
    const failPoints = join(world.dir, "failpoints");
    writeShimConfig(configFile);
    writeFileSync(failPoints, "");
    const env = { CAISSON_CONF_FILE: configFile, CAISSON_FAILPOINTS: `@${failPoints}` };
    const containerd = await startContainerd({
      world,
      version: init.version ?? "system",
      env: { ...env, ...init.env?.(world.dir) },
    });
    await importBusybox(containerd);
    await makePodNetwork(world);
    const host = new FaultHost(world, containerd, configFile, failPoints);
    await host.events.follow();
    return host;
  }

  configure(overrides: ConfigOverrides = {}): void {
    writeShimConfig(this.configFile, overrides);
  }

  /** Arms exactly these points, in every process from now on. */
  arm(points: Partial<Record<FailPoint, ArmedAction>> = {}): void {
    const pairs = Object.entries(points).map(([name, action]) => `${name}=${action}`);
    writeFileSync(this.#failPoints, pairs.join(","));
  }

  newId(): string {
    this.#ids += 1;
    return `f${this.#ids}`;
  }

  /** `ctr run` in the pod's network namespace, to the end of the process. */
  run(id: string, argv: readonly string[], options: RunFlags = {}): Promise<RunResult> {
    return this.runPlain(id, argv, { ...options, flags: [...IN_POD, ...(options.flags ?? [])] });
  }

  /** Flags of `ctr run` for a container that has what `way` says, which is made below the world's directory. */
  flagsFor(way: Way, id: string): string[] {
    if (way === "any") return [];
    if (way === "volume") {
      const dir = join(this.world.dir, "volume");
      mkdirSync(dir, { recursive: true });
      return ["--mount", `type=bind,src=${dir},dst=/data,options=rbind:rw`];
    }
    const logger = join(this.world.dir, "logger");
    // Says by closing descriptor 5 that it is ready, and reads both outputs to their ends (containerd's protocol).
    const script = "#!/bin/sh\nexec 5>&-\ncat <&3 >/dev/null &\ncat <&4 >/dev/null\nwait\n";
    writeFileSync(logger, script, { mode: 0o755 });
    return ["--detach", "--log-uri", `binary://${logger}?id=${id}`];
  }

  /** `ctr run` with a network namespace of its own, which is empty. */
  runPlain(id: string, argv: readonly string[], options: RunFlags = {}): Promise<RunResult> {
    const flags = ["--runtime", CAISSON_RUNTIME, ...(options.flags ?? [])];
    return this.containerd.ctr(["run", ...flags, BUSYBOX_IMAGE, id, ...argv], options);
  }

  /** The whole command line of `run`, for callers that start it themselves. */
  runCommand(id: string, argv: readonly string[]): string[] {
    return this.containerd.ctrCommand([
      "run",
      "--runtime",
      CAISSON_RUNTIME,
      ...IN_POD,
      BUSYBOX_IMAGE,
      id,
      ...argv,
    ]);
  }

  /** Runs a shell script in the world. */
  inWorld(script: string): Promise<RunResult> {
    return run(this.world.enter(["sh", "-c", script]));
  }

  /** Starts a container in the background and returns once its process runs. */
  async runDetached(id: string, argv: readonly string[], flags: readonly string[] = []): Promise<void> {
    this.#assertOk(await this.run(id, argv, { flags: ["--detach", "--null-io", ...flags] }));
  }

  /** The same without the pod's network, so that another can have that. */
  async runPlainDetached(id: string, argv: readonly string[]): Promise<void> {
    this.#assertOk(await this.runPlain(id, argv, { flags: ["--detach", "--null-io"] }));
  }

  /** Starts one in the background that prints 1, 2, 3, … ten times a second into pipes for `attach`. */
  async runTicking(id: string): Promise<void> {
    const script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";
    this.#assertOk(await this.runPlain(id, ["sh", "-c", script], { flags: ["--detach"] }));
  }

  /** Reads the output of a ticking container for a while, as a client that comes and goes. */
  async attach(id: string, forMs: number): Promise<number[]> {
    const result = await this.containerd.ctr(["task", "attach", id], { timeoutMs: forMs });
    // What the killed client had read and not printed is its loss.
    const lines = result.stdout.split("\n").filter((line) => /^\d+$/.test(line));
    return lines.map(Number);
  }

  #assertOk(result: RunResult): void {
    if (result.code !== 0) throw new Error(`${describeResult(result)}\n${this.containerd.logTail()}`);
  }

  exec(id: string, argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return this.containerd.ctr(["task", "exec", "--exec-id", `e${this.newId()}`, id, ...argv], options);
  }

  /** What containerd says of a task: "RUNNING", "STOPPED", …; undefined when it knows none. */
  async status(id: string): Promise<string | undefined> {
    const { stdout } = await this.containerd.ctr(["task", "list"], { timeoutMs: 40_000 });
    const row = stdout.split("\n").find((line) => line.split(/\s+/)[0] === id);
    return row?.trim().split(/\s+/)[2];
  }

  /** Pids of the processes in that role, parents before children. */
  pids(victim: Victim): number[] {
    return this.world
      .processes()
      .filter(({ commandLine }) => commandOf[victim].test(`${commandLine} `))
      .map(({ pid }) => pid);
  }

  /**
   * The one that does the work: virtiofsd's is a child of the one that the shim started; of two virtiofsd the later one.
   * Waits a moment for it: the command line of a process is empty while it executes another program.
   */
  async worker(victim: Victim): Promise<number> {
    const deadline = performance.now() + EXEC_LIMIT_MS;
    for (;;) {
      const pids = this.pids(victim);
      const worker = pids.findLast((pid) => !childrenOf(pid).some((child) => pids.includes(child)));
      if (worker !== undefined) return worker;
      if (performance.now() > deadline) throw new Error(`no ${victim} runs`);
      await sleep(POLL_MS);
    }
  }

  async kill(victim: Victim, signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    process.kill(await this.worker(victim), signal);
  }

  /**
   * Ends the agent in the guest of sandbox `id`, which is a kernel panic and the end of QEMU. Preconditions: the guest
   * was booted with `AGENT_EXITS`.
   */
  async killAgent(id: string): Promise<void> {
    const root = this.world.outside("/run/caisson");
    const dir = readdirSync(root).find((name) => name.startsWith(`${id}-`));
    if (dir === undefined) throw new Error(`no sandbox ${id}`);
    const limit = AbortSignal.timeout(AGENT_END_MS);
    // The socket of the vsock backend, past the shim, which may stand still.
    const socket = connect(join(root, dir, "u"));
    try {
      socket.on("error", () => undefined);
      socket.write(`CONNECT ${CONSOLE_PORT}\n`);
      while (this.pids("qemu").length > 0) await sleep(POLL_MS, undefined, { signal: limit });
    } finally {
      socket.destroy();
    }
  }

  /** Waits until a shim process has stopped itself at an armed point. @returns its pid, undefined after `limitMs` */
  async stoppedShim(limitMs: number, over: () => boolean): Promise<number | undefined> {
    const deadline = performance.now() + limitMs;
    while (performance.now() < deadline && !over()) {
      const stopped = this.world
        .processes()
        .find(({ pid, commandLine }) => anyShim.test(commandLine) && stateOf(pid) === "T");
      if (stopped !== undefined) return stopped.pid;
      await sleep(POLL_MS);
    }
    return undefined;
  }

  /** `shim gc` on this host. @returns what it prints */
  async collectGarbage(dryRun = false): Promise<string> {
    const flags = dryRun ? ["--dry-run"] : [];
    const argv = this.world.enter([process.execPath, join(built.bin, "shim"), "gc", ...flags]);
    const { stdout, stderr } = await run(argv, { timeoutMs: 60_000 });
    return `${stdout}${stderr}`;
  }

  /** What there is now, but for containerd itself and what looks at it. */
  async ledger(): Promise<LedgerSnapshot> {
    const snapshot = new Map(takeSnapshot(this.world, [this.containerd.bundles]));
    const processes = [...(snapshot.get("process") ?? [])].filter(
      (line) => !/(^|\/)(containerd|ctr) |\bnsenter /.test(line),
    );
    snapshot.set("process", new Set(processes));
    // A client's pipes are the client's to remove, and it does not where a call of its failed.
    const files = [...(snapshot.get("file") ?? [])].filter(
      (file) => !file.startsWith("/run/containerd/fifo"),
    );
    snapshot.set("file", new Set(files));
    snapshot.set("pod network", new Set(await podNetwork(this.world)));
    return snapshot;
  }

  /** What is there beyond `before` once teardown had `settleMs` to finish. */
  async leaks(before: LedgerSnapshot, settleMs = 15_000): Promise<string[]> {
    const deadline = performance.now() + settleMs;
    for (;;) {
      const leaks = leaksBetween(before, await this.ledger());
      if (leaks.length === 0 || performance.now() > deadline) return leaks;
      await sleep(50);
    }
  }

  /** Removes a container, whatever became of it, as an operator would. @returns what did not answer in time */
  async clean(id: string): Promise<string[]> {
    const hung: string[] = [];
    const steps = [
      ["task", "kill", "--signal", "SIGKILL", id],
      ["task", "delete", "--force", id],
      ["container", "delete", id],
    ];
    for (const step of steps) {
      const result = await this.containerd.ctr(step, { timeoutMs: 40_000 });
      if (result.timedOut) hung.push(`ctr ${step.join(" ")}`);
    }
    return hung;
  }

  /** After a test went wrong: kills whatever is left of sandboxes, so that the next one starts clean. */
  async reset(): Promise<void> {
    this.arm();
    for (const { pid, commandLine } of this.world.processes()) {
      if (anyShim.test(commandLine)) killQuietly(pid);
    }
    await sleep(300);
    const { stdout } = await this.containerd.ctr(["container", "list", "--quiet"], { timeoutMs: 10_000 });
    for (const id of stdout.split("\n").filter((line) => line !== "")) await this.clean(id);
    await this.collectGarbage().catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.events.close();
    await this.containerd[Symbol.asyncDispose]();
    await this.world[Symbol.asyncDispose]();
  }
}

export function killQuietly(pid: number, signal: NodeJS.Signals = "SIGKILL"): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It ended by itself meanwhile.
  }
}

/** The state letter of /proc/PID/stat (proc(5)); "" for a process that is gone. */
export function stateOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3);
  } catch {
    return "";
  }
}

/** A namespace as CNI leaves it: eth0, a veth, with an address and a default route. */
async function makePodNetwork(world: World): Promise<void> {
  const script = `
ip netns add ${NETNS}
ip link add veth_host type veth peer name eth0 netns ${NETNS}
ip link set veth_host up
ip addr add 10.88.0.1/24 dev veth_host
ip -n ${NETNS} link set lo up
ip -n ${NETNS} addr add 10.88.0.2/24 dev eth0
nsenter --net=/run/netns/${NETNS} sh -c 'echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad'
ip -n ${NETNS} link set eth0 up
ip -n ${NETNS} route add default via 10.88.0.1
for i in $(seq 100); do ip -n ${NETNS} -6 -o addr show dev eth0 | grep -vq tentative && exit 0; sleep 0.05; done; exit 1`;
  await runOk(world.enter(["sh", "-ec", script]));
}

/** Links, addresses, qdiscs, filters and tables of the pod's namespace, without what counts and ages. */
async function podNetwork(world: World): Promise<string[]> {
  const script = `ip -n ${NETNS} -o addr; ip -n ${NETNS} -o link; tc -n ${NETNS} qdisc show; tc -n ${NETNS} filter show dev eth0 ingress; nsenter --net=/run/netns/${NETNS} nft list tables 2>/dev/null || true`;
  const { stdout } = await run(world.enter(["sh", "-c", script]));
  return stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.replace(/state \w+|<[^>]*>|valid_lft.*|tentative|qlen \d+|\\/g, "").trim());
}
