/**
 * Where a test's containerd lives.
 *
 * An isolated world has mount, pid and network namespaces of its own, with its own /run/caisson, /run/containerd and
 * /run/netns: what is left in it was left by this test, several of them run side by side, and when the test process
 * goes, by whatever signal, the kernel ends everything inside (its init waits on a pipe from us). The host world is the
 * machine itself, for the demo; there, what belongs to us is known by the world's name in command lines, environments
 * and paths.
 */

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { scaledMs } from "../../src/base/timeouts.ts";
import { run } from "./run.ts";

export interface WorldProcess {
  /** Pid as this process sees it, also for an isolated world. */
  readonly pid: number;
  readonly commandLine: string;
}

export interface World extends AsyncDisposable {
  /** Unique and short; also the containerd namespace and the prefix of container ids. */
  readonly name: string;
  /** Scratch directory, removed at the end. Short, for the sake of socket paths. */
  readonly dir: string;
  /** The command line that runs `argv` in this world. */
  enter(argv: readonly string[]): string[];
  /** A path of this world as seen from here. */
  outside(path: string): string;
  /** Every process of this world besides its init. */
  processes(): WorldProcess[];
  /** Text of a file below /proc/<pid> of a process that sees this world's mounts and network. */
  procFile(name: "mountinfo" | "net/dev" | "net/unix"): string;
}

/** Passed on to everything that runs in a host world, and found again in /proc/<pid>/environ. */
export const WORLD_VARIABLE = "CAISSON_WORLD";

const PRIVATE_DIRECTORIES = ["/run/caisson", "/run/containerd", "/run/netns"];
const READY_LIMIT_MS = scaledMs(10_000);

const initScript = `
for d in ${PRIVATE_DIRECTORIES.join(" ")}; do mkdir -p $d && mount -t tmpfs -o mode=0755 tmpfs $d || exit 1; done
ip link set lo up || exit 1
echo ready
read -r _`;

/** A world of its own namespaces. Preconditions: root. The caller disposes of it, which ends all its processes. */
export async function createWorld(): Promise<World> {
  const { name, dir } = scratch();
  // bash as pid 1 reaps what is orphaned inside; with its input at end of file it exits and the kernel ends the rest.
  const argv = [
    "--mount",
    "--pid",
    "--net",
    "--fork",
    "--kill-child=SIGKILL",
    "--mount-proc",
    "bash",
    "-c",
    initScript,
  ];
  const child = spawn("unshare", argv, { stdio: ["pipe", "pipe", "pipe"] });
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  await new Promise<void>((resolve, reject) => {
    let errors = "";
    const fail = (why: string) => reject(new Error(`cannot make a test world: ${why}${errors}`));
    const timer = setTimeout(() => fail("no answer in 10 s "), READY_LIMIT_MS);
    child.stderr.on("data", (chunk: Buffer) => {
      errors += chunk.toString();
    });
    child.once("error", (error) => fail(error.message));
    child.once("exit", (code) => fail(`exit ${code} `));
    child.stdout.once("data", () => {
      clearTimeout(timer);
      resolve();
    });
  });
  const init = childrenOf(child.pid ?? 0)[0];
  if (init === undefined) throw new Error("cannot make a test world: its init is gone");
  const pidNamespace = readlinkSync(`/proc/${init}/ns/pid`);
  return {
    name,
    dir,
    enter: (argv) => ["nsenter", "-t", String(init), "--mount", "--pid", "--net", "--", ...argv],
    outside: (path) => `/proc/${init}/root${path}`,
    processes: () =>
      listProcesses((pid) => pid !== init && readlinkOrEmpty(`/proc/${pid}/ns/pid`) === pidNamespace),
    procFile: (file) => readFileSync(`/proc/${init}/${file}`, "utf8"),
    async [Symbol.asyncDispose]() {
      child.stdin.end();
      await exited;
      removeCgroups(name);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/**
 * The machine itself. Disposing of it ends every process, mount and cgroup that carries its name, and its directories;
 * after a clean run only its scratch directory is left to remove.
 */
export function hostWorld(): World {
  const { name, dir } = scratch();
  const world: World = {
    name,
    dir,
    enter: (argv) => [...argv],
    outside: (path) => path,
    processes: () =>
      listProcesses((pid, commandLine) => pid !== process.pid && isMarked(pid, commandLine, name)),
    procFile: (file) => readFileSync(`/proc/self/${file}`, "utf8"),
    async [Symbol.asyncDispose]() {
      for (const { pid } of world.processes()) killQuietly(pid);
      const points = world
        .procFile("mountinfo")
        .split("\n")
        .map((line) => line.split(" ")[4] ?? "");
      for (const point of points.filter((path) => path.includes(name)).reverse()) {
        await run(["umount", "--lazy", point]);
      }
      removeCgroups(name);
      for (const entry of readdirQuietly("/run/caisson").filter((file) => file.includes(name))) {
        rmSync(join("/run/caisson", entry), { recursive: true, force: true });
      }
      rmSync(dir, { recursive: true, force: true });
    },
  };
  return world;
}

/** A new name and scratch directory; also removes those of test processes that were killed. */
function scratch(): { name: string; dir: string } {
  sweepScratch();
  const name = `cai${randomBytes(3).toString("hex")}`;
  return { name, dir: mkdtempSync(join(tmpdir(), `${name}-${process.pid}-`)) };
}

/** The kernel has ended what ran in a world whose owner was killed; its directory and cgroups are still there. */
function sweepScratch(): void {
  for (const entry of readdirQuietly(tmpdir())) {
    const [, name, owner] = /^(cai[0-9a-f]{6})-(\d+)-/.exec(entry) ?? [];
    if (name === undefined || owner === undefined || existsSync(`/proc/${owner}`)) continue;
    removeCgroups(name);
    rmSync(join(tmpdir(), entry), { recursive: true, force: true });
  }
}

function isMarked(pid: number, commandLine: string, name: string): boolean {
  if (commandLine.includes(name)) return true;
  try {
    return readFileSync(`/proc/${pid}/environ`, "latin1").includes(`${WORLD_VARIABLE}=${name}\0`);
  } catch {
    return false;
  }
}

function readlinkOrEmpty(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

function listProcesses(belongs: (pid: number, commandLine: string) => boolean): WorldProcess[] {
  const found: WorldProcess[] = [];
  for (const entry of readdirSync("/proc")) {
    const pid = Number(entry);
    if (!Number.isInteger(pid)) continue;
    try {
      const commandLine = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      if (!belongs(pid, commandLine)) continue;
      const name = commandLine === "" ? `[${readFileSync(`/proc/${pid}/comm`, "utf8").trim()}]` : commandLine;
      found.push({ pid, commandLine: name });
    } catch {
      // It ended while we looked.
    }
  }
  return found;
}

/** Pids of the direct children of `pid`. */
export function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
    return text === "" ? [] : text.split(" ").map(Number);
  } catch {
    return [];
  }
}

/** Every cgroup directory, of any hierarchy, whose path has `name` in it; parents first. */
export function cgroupsOf(name: string): string[] {
  const found: string[] = [];
  const walk = (dir: string) => {
    let entries: string[];
    try {
      entries = readdirSync(dir, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map((entry) => entry.name);
    } catch {
      return;
    }
    for (const entry of entries) {
      const path = join(dir, entry);
      if (path.includes(name)) found.push(path);
      walk(path);
    }
  };
  walk("/sys/fs/cgroup");
  return found;
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It ended by itself meanwhile.
  }
}

function readdirQuietly(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
}

/** Removes the empty cgroups whose path has `name` in it. */
export function removeCgroups(name: string): void {
  for (const path of cgroupsOf(name).reverse()) {
    try {
      rmdirSync(path);
    } catch {
      // Still busy for a moment, or gone with its parent.
    }
  }
}
