/** A containerd of our own: private root, state, socket and configuration; its log is kept and shown on failure. */

import { type ChildProcess, spawn } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { scaledMs } from "../../src/base/timeouts.ts";
import { built, repositoryRoot } from "./paths.ts";
import { describeResult, type RunOptions, type RunResult, run } from "./run.ts";
import { childrenOf, WORLD_VARIABLE, type World } from "./world.ts";

/** "system" is the one on PATH; any other is unpacked at .cache/containerd-<version>. */
export type ContainerdVersion = "system" | "1.7" | "2.1";

export interface ContainerdInit {
  readonly world: World;
  readonly version?: ContainerdVersion;
  /** Added to the environment of containerd, and so of every shim. */
  readonly env?: Readonly<Record<string, string>>;
  /** Namespace of `ctr` and of the bundles; the world's name when absent. */
  readonly namespace?: string;
  /** Further configuration, with the CRI plugin on; it is off when absent. */
  readonly cri?: CriConfiguration;
  /** Where its exporter serves the figures of its tasks ("127.0.0.1:1338"); not at all when absent. */
  readonly metricsAddress?: string;
}

export interface CriConfiguration {
  /** Of the format: 3 is containerd 2's. */
  readonly version: 2 | 3;
  /** Files that are laid over it. */
  readonly imports: readonly string[];
  /** Tables of the CRI plugins. */
  readonly tables: string;
}

/** Stretches all deadlines of the shim (src/base/timeouts.ts). */
const SCALE = "CAISSON_TIMEOUT_SCALE";

const READY_LINE = "containerd successfully booted";
const READY_LIMIT_MS = scaledMs(20_000);
const STOP_LIMIT_MS = scaledMs(5_000);

export class Containerd implements AsyncDisposable {
  readonly world: World;
  readonly address: string;
  readonly namespace: string;
  /** Directory with a bundle per task of this daemon's namespace. */
  readonly bundles: string;
  readonly #binaries: string;
  readonly #env: NodeJS.ProcessEnv;
  readonly #config: string;
  readonly #logFile: string;
  #child: ChildProcess | undefined;

  constructor(init: ContainerdInit) {
    const { world } = init;
    this.world = world;
    this.address = join(world.dir, "c.sock");
    this.namespace = init.namespace ?? world.name;
    this.bundles = join(world.dir, "state/io.containerd.runtime.v2.task", this.namespace);
    this.#binaries = binariesOf(init.version ?? "system");
    this.#config = join(world.dir, "containerd.toml");
    this.#logFile = join(world.dir, "containerd.log");
    this.#env = {
      HOME: "/root",
      PATH: [
        built.bin,
        this.#binaries,
        dirname(process.execPath),
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
      ].join(":"),
      [WORLD_VARIABLE]: world.name,
      ...(process.env[SCALE] === undefined ? {} : { [SCALE]: process.env[SCALE] }),
      ...init.env,
    };
    writeFileSync(this.#config, configuration(init, this.address));
  }

  /** Starts the daemon and waits until it serves. Preconditions: it does not run. */
  async start(): Promise<void> {
    const argv = this.world.enter([join(this.#binaries, "containerd"), "--config", this.#config]);
    const [file = "", ...args] = argv;
    const child = spawn(file, args, { env: this.#env, stdio: ["ignore", "ignore", "pipe"], detached: true });
    this.#child = child;
    await new Promise<void>((resolve, reject) => {
      const fail = (why: string) => reject(new Error(`containerd ${why}\n${this.logTail()}`));
      const timer = setTimeout(() => fail("is not ready after 20 s"), READY_LIMIT_MS);
      let text = "";
      child.stderr?.on("data", (chunk: Buffer) => {
        appendFileSync(this.#logFile, chunk);
        if (!text.includes(READY_LINE)) text += chunk.toString();
        if (!text.includes(READY_LINE)) return;
        clearTimeout(timer);
        resolve();
      });
      child.once("error", (error) => fail(error.message));
      child.once("exit", (code, signal) => {
        clearTimeout(timer);
        fail(`ended (${code ?? signal})`);
      });
    });
  }

  /** Pid of the daemon as seen from here; nsenter stands between it and us in an isolated world. */
  get pid(): number {
    return this.#child === undefined ? 0 : daemonPid(this.#child);
  }

  /** Ends the daemon and waits for it; its shims live on. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
    const pid = daemonPid(child);
    const timer = setTimeout(() => killQuietly(pid, "SIGKILL"), STOP_LIMIT_MS);
    killQuietly(pid, signal);
    await exited;
    clearTimeout(timer);
  }

  /** Halts the daemon until `resume`: it does nothing, and its clients wait. */
  pause(): void {
    process.kill(this.pid, "SIGSTOP");
  }

  /** Lets a halted daemon go on; nsenter, which stands before it, has halted with it. */
  resume(): void {
    for (const pid of [this.pid, this.#child?.pid ?? 0]) killQuietly(pid, "SIGCONT");
  }

  /** Runs ctr in this daemon's world and namespace. */
  ctr(args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return run(this.ctrCommand(args), { ...options, env: { ...this.#env, ...options.env } });
  }

  /** Like `ctr`; a failure is an error that shows the output and the end of the daemon's log. */
  async ctrOk(args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    const result = await this.ctr(args, options);
    if (result.code !== 0) throw new Error(`${describeResult(result)}\n${this.logTail()}`);
    return result;
  }

  /** The whole command line of a ctr call, for callers that start it themselves. */
  ctrCommand(args: readonly string[]): string[] {
    const binary = join(this.#binaries, "ctr");
    return this.world.enter([binary, "--address", this.address, "--namespace", this.namespace, ...args]);
  }

  /** What containerd and the shims it started have logged so far, without the list of its plugins. */
  log(): string {
    if (!existsSync(this.#logFile)) return "";
    const lines = readFileSync(this.#logFile, "utf8").split("\n");
    return lines.filter((line) => !/msg="(skip )?loading plugin /.test(line)).join("\n");
  }

  logTail(lines = 30): string {
    return `--- end of containerd's log ---\n${this.log().trimEnd().split("\n").slice(-lines).join("\n")}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** A running containerd. The caller disposes of it before its world. */
export async function startContainerd(init: ContainerdInit): Promise<Containerd> {
  const containerd = new Containerd(init);
  await containerd.start();
  return containerd;
}

/** Directory of the programs of a version. */
export function binariesOf(version: ContainerdVersion): string {
  if (version !== "system") return join(repositoryRoot, `.cache/containerd-${version}/usr/bin`);
  const found = ["/usr/bin", "/usr/local/bin"].find((dir) => existsSync(join(dir, "containerd")));
  if (found === undefined) throw new Error("containerd is not installed: run npm run setup");
  return found;
}

/** After which containerd kills `delete`, and leaves the bundle of a dead shim: its own 5 s, on a machine that is slower too. */
const SHIM_CLEANUP_MS = 5_000;

/** The CRI plugin only costs start-up time where it is not the subject. */
function configuration({ world, cri, metricsAddress }: ContainerdInit, address: string): string {
  mkdirSync(join(world.dir, "opt"), { recursive: true });
  const disabled = cri === undefined ? ["io.containerd.grpc.v1.cri"] : [];
  return `version = ${cri?.version ?? 2}
imports = ${JSON.stringify(cri?.imports ?? [])}
root = "${world.dir}/root"
state = "${world.dir}/state"
disabled_plugins = ${JSON.stringify(disabled)}
[grpc]
  address = "${address}"
[ttrpc]
  address = "${address}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "${world.dir}/opt"
[timeouts]
  "io.containerd.timeout.shim.cleanup" = "${scaledMs(SHIM_CLEANUP_MS)}ms"
${metricsAddress === undefined ? "" : `[metrics]\n  address = "${metricsAddress}"`}
${cri?.tables ?? ""}`;
}

function daemonPid(child: ChildProcess): number {
  const own = child.pid ?? 0;
  return childrenOf(own).find((pid) => commandName(pid) === "containerd") ?? own;
}

function commandName(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return "";
  }
}

function killQuietly(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It ended by itself meanwhile.
  }
}
