/**
 * What an e2e test file needs: an isolated world, a containerd in it that finds our shim, an image, and tests that end
 * with an even leak ledger.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { scaledMs } from "../../src/base/timeouts.ts";
import {
  type Containerd,
  type ContainerdInit,
  type ContainerdVersion,
  startContainerd,
} from "./containerd.ts";
import { BUSYBOX_IMAGE, importBusybox } from "./images.ts";
import { assertEven, takeSnapshot } from "./leak-ledger.ts";
import { assertSetUp } from "./paths.ts";
import type { RunOptions, RunResult } from "./run.ts";
import { type ConfigOverrides, writeShimConfig } from "./shim-config.ts";
import { createWorld, removeCgroups, type World } from "./world.ts";

export const CAISSON_RUNTIME = "io.containerd.caisson.v2";
export const RUNC_RUNTIME = "io.containerd.runc.v2";

const STOP_LIMIT_MS = scaledMs(10_000);

export interface RunFlags extends RunOptions {
  readonly id?: string;
  /** Flags of `ctr run` beyond --runtime and --rm. */
  readonly flags?: readonly string[];
  readonly runtime?: string;
  /** The busybox image when absent. */
  readonly image?: string;
  /** Keep the container: no --rm. */
  readonly keep?: boolean;
}

export interface TestHostOptions extends Pick<ContainerdInit, "metricsAddress"> {
  readonly config?: ConfigOverrides;
}

/** For machines that start their kernel, as where no template was made. */
export const WITHOUT_TEMPLATE: ConfigOverrides = { "factory.enable_template": false };

export class TestHost implements AsyncDisposable {
  readonly world: World;
  readonly containerd: Containerd;
  readonly configFile: string;
  readonly #config: ConfigOverrides;
  #ids = 0;

  private constructor(world: World, containerd: Containerd, configFile: string, config: ConfigOverrides) {
    this.world = world;
    this.containerd = containerd;
    this.configFile = configFile;
    this.#config = config;
  }

  /**
   * The caller disposes of it.
   * @param environment further variables of containerd, once its world is there
   * @param more of containerd's configuration, and of the shim's for all sandboxes
   */
  static async start(
    version: ContainerdVersion = "system",
    environment: (world: World) => Promise<Readonly<Record<string, string>>> = async () => ({}),
    { config = {}, ...more }: TestHostOptions = {},
  ): Promise<TestHost> {
    assertSetUp();
    const world = await createWorld();
    try {
      const configFile = join(world.dir, "configuration.toml");
      writeShimConfig(configFile, config);
      const env = { ...(await environment(world)), CAISSON_CONF_FILE: configFile };
      const containerd = await startContainerd({ world, version, env, ...more });
      await importBusybox(containerd);
      return new TestHost(world, containerd, configFile, config);
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Replaces the shim's configuration for the sandboxes that start from now on. */
  configure(overrides: ConfigOverrides = {}): void {
    writeShimConfig(this.configFile, { ...this.#config, ...overrides });
  }

  /** A container id that this host has not used yet. */
  newId(): string {
    this.#ids += 1;
    return `c${this.#ids}`;
  }

  /** The arguments of ctr that run `argv` in a new container. */
  runArguments(argv: readonly string[], flags: RunFlags = {}): string[] {
    const keep = flags.keep === true ? [] : ["--rm"];
    const runtime = ["--runtime", flags.runtime ?? CAISSON_RUNTIME];
    return [
      "run",
      ...keep,
      ...runtime,
      ...(flags.flags ?? []),
      flags.image ?? BUSYBOX_IMAGE,
      flags.id ?? this.newId(),
      ...argv,
    ];
  }

  /** `ctr run` to the end of the process. */
  run(argv: readonly string[], flags: RunFlags = {}): Promise<RunResult> {
    return this.containerd.ctr(this.runArguments(argv, flags), flags);
  }

  /** `ctr run` with runc, for comparison, less the empty parent cgroups that runc leaves behind. */
  async runControl(argv: readonly string[], flags: RunFlags = {}): Promise<RunResult> {
    const result = await this.run(argv, { ...flags, runtime: RUNC_RUNTIME });
    removeCgroups(this.world.name);
    return result;
  }

  /** Starts a container in the background, without stdio, and returns its id once its process runs. */
  async runDetached(argv: readonly string[], flags: RunFlags = {}): Promise<string> {
    const id = flags.id ?? this.newId();
    const nullIo = flags.flags?.includes("--tty") === true ? [] : ["--null-io"];
    const all = { ...flags, id, keep: true, flags: ["--detach", ...nullIo, ...(flags.flags ?? [])] };
    await this.containerd.ctrOk(this.runArguments(argv, all), flags);
    return id;
  }

  /** `ctr task exec` to the end of the process. */
  exec(id: string, argv: readonly string[], flags: RunFlags = {}): Promise<RunResult> {
    const execId = `e${this.newId()}`;
    return this.containerd.ctr(
      ["task", "exec", "--exec-id", execId, ...(flags.flags ?? []), id, ...argv],
      flags,
    );
  }

  /** Waits until containerd shows the task of `id` as stopped. @throws after 10 s. */
  async waitUntilStopped(id: string): Promise<void> {
    const deadline = performance.now() + STOP_LIMIT_MS;
    for (;;) {
      const { stdout } = await this.containerd.ctrOk(["task", "list"]);
      const line = stdout.split("\n").find((row) => row.split(/\s+/)[0] === id);
      if (line?.includes("STOPPED") === true) return;
      if (performance.now() > deadline) throw new Error(`${id} does not stop; ctr shows: ${line}`);
      await sleep(50);
    }
  }

  /** Kills a detached container and removes it. */
  async remove(id: string): Promise<void> {
    await this.containerd.ctr(["task", "kill", "--signal", "SIGKILL", id]);
    await this.containerd.ctrOk(["task", "delete", "--force", id]).catch(() => undefined);
    await this.containerd.ctrOk(["container", "delete", id]);
  }

  /** Fields of the record of this machine's own kernel, the same in all its namespaces. */
  static bootId(): string {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  }

  /**
   * Runs `body` and then checks that nothing is left. When the body fails, or leaves something, what remains is removed,
   * so that the next test starts clean.
   */
  async ledgered(body: () => Promise<void>): Promise<void> {
    const before = takeSnapshot(this.world, [this.containerd.bundles]);
    const logged = this.containerd.log().length;
    try {
      await body();
      await assertEven(this.world, before, [this.containerd.bundles]);
    } catch (error) {
      await this.#removeAll();
      const log = this.containerd.log().slice(logged).trimEnd();
      if (error instanceof Error) error.message += `\n--- containerd's log of this test ---\n${log}`;
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.containerd[Symbol.asyncDispose]();
    await this.world[Symbol.asyncDispose]();
  }

  async #removeAll(): Promise<void> {
    const { stdout } = await this.containerd.ctr(["container", "list", "--quiet"], { timeoutMs: 10_000 });
    for (const id of stdout.split("\n").filter((line) => line !== "")) {
      await this.containerd.ctr(["task", "kill", "--signal", "SIGKILL", id], { timeoutMs: 10_000 });
      await this.containerd.ctr(["task", "delete", "--force", id], { timeoutMs: 10_000 });
      await this.containerd.ctr(["container", "delete", id], { timeoutMs: 10_000 });
    }
    for (const { pid } of this.world.processes()) {
      if (pid !== this.containerd.pid) process.kill(pid, "SIGKILL");
    }
  }
}

/**
 * A host for all tests of a file, started before the first and gone after the last, and a `test` whose ledger must be
 * even.
 */
export function withTestHost(
  version: ContainerdVersion = "system",
  more: TestHostOptions = {},
): {
  host: () => TestHost;
  ledgeredTest: (name: string, body: (host: TestHost) => Promise<void>) => void;
} {
  let started: TestHost | undefined;
  const host = () => {
    if (started === undefined) throw new Error("the test host is not started");
    return started;
  };
  before(async () => {
    started = await TestHost.start(version, undefined, more);
  });
  after(async () => {
    await started?.[Symbol.asyncDispose]();
  });
  const ledgeredTest = (name: string, body: (host: TestHost) => Promise<void>): void => {
    void test(name, async () => {
      host().configure();
      await host().ledgered(() => body(host()));
    });
  };
  return { host, ledgeredTest };
}
