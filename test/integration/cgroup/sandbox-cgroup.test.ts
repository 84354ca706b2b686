/**
 * A sandbox's cgroup in every layout that a host may have: this one's own, version 2 alone, and both with systemd as
 * init, which runs in namespaces of its own for that.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { sharesToWeight } from "../../../src/base/cpu-weight.ts";
import { repositoryRoot } from "../../harness/paths.ts";
import { runOk } from "../../harness/run.ts";
import { childrenOf, createWorld, type World } from "../../harness/world.ts";

let world: World;
before(async () => {
  world = await createWorld();
});
after(() => world?.[Symbol.asyncDispose]());

interface Seen {
  readonly before: string[];
  readonly directories: string[];
  readonly inside: { readonly own: string[]; readonly child: string[]; readonly journalled: string[] };
  readonly unit: string[];
  readonly limits: string[];
  /** The cpus of a process in it that was to have cpu 1, any, and cpu 0. */
  readonly allowed: string[];
  readonly after: string[];
  readonly left: string[];
  readonly open: number;
  readonly warnings: string[];
  /** Of which version Stats answers here. */
  readonly metrics: string;
}

const START_LIMIT_MS = 60_000;
const fixture = join(repositoryRoot, "test/integration/cgroup/fixtures/enter.ts");
const program = (cgroupsPath: string) => [
  ...["env", "-C", repositoryRoot, process.execPath, "--import", "tsx"],
  ...[fixture, cgroupsPath],
];
const versionTwoAlone = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup";

async function seen(command: readonly string[]): Promise<Seen> {
  return JSON.parse(
    (await runOk(command, { cwd: repositoryRoot, timeoutMs: START_LIMIT_MS })).stdout,
  ) as Seen;
}

function assertLife(it: Seen, path: string): void {
  assert.ok(it.directories.length > 0 && it.directories.every((dir) => dir.endsWith(path)));
  // A hierarchy that is not mounted in this view cannot be entered.
  for (const lines of [it.inside.own, it.inside.child]) {
    assert.equal(lines.filter((line) => line.endsWith(path)).length, it.directories.length, lines.join());
  }
  assert.deepEqual(it.inside.journalled, it.directories, "each was in the journal");
  assert.deepEqual([it.after, it.left, it.open], [it.before, [], 0], "left, removed, and noted so");
  assert.deepEqual(it.warnings, []);
}

test("on this host, with every hierarchy that it has", async () => {
  const path = `/${world.name}/own/abc`;
  const it = await seen(world.enter(program(path)));
  assertLife(it, path);
  const mounted = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => / - cgroup2? /.test(line));
  assert.equal(it.directories.length, mounted.length);
  const quota = it.limits.find((limit) => /^cpu\.(cfs_quota_us|max)=/.test(limit));
  assert.match(quota ?? "", /=50000( 100000)?$/);
  assert.ok(it.limits.includes("cpuset.cpus=0"), it.limits.join());
  assert.ok(
    it.limits.some((limit) => limit === "cpu.shares=2048" || limit === `cpu.weight=${sharesToWeight(2048n)}`),
    it.limits.join(),
  );
  const [one, any = "", zero] = it.allowed;
  assert.deepEqual([one, zero], ["1", "0"]);
  assert.match(any, /^0-\d+$/);
});

test("on a host with version 2 alone", async () => {
  const path = `/${world.name}/two/abc`;
  const script = `${versionTwoAlone} && exec "$@"`;
  const it = await seen(world.enter(["unshare", "--mount", "sh", "-c", script, "sh", ...program(path)]));
  assertLife(it, path);
  assert.equal(it.directories.length, 1);
  assert.equal(it.metrics, "v2");
});

/** Mounts of a host that systemd finds at its start: hybrid, or version 2 alone. */
const layouts = {
  hybrid: `mount -t tmpfs tmpfs /sys/fs/cgroup; cd /sys/fs/cgroup; mkdir systemd unified
mount -t cgroup -o none,name=systemd cgroup systemd; mount -t cgroup2 cgroup2 unified
for c in cpu cpuset memory pids; do mkdir $c; mount -t cgroup -o $c cgroup $c; done`,
  unified: "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
};

/** systemd as init below the cgroup `/<world>/<name>` of every hierarchy. @returns the command that enters its namespaces. */
async function startSystemd(layout: keyof typeof layouts): Promise<readonly string[]> {
  const inner = `set -e
umount -R /sys/fs/cgroup
${layouts[layout]}
cd /; mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/system
printf '[Unit]\\nDefaultDependencies=no\\nAllowIsolate=yes\\n' > /run/systemd/system/idle.target
container=test exec /lib/systemd/systemd --system --unit=idle.target --log-target=null --show-status=no`;
  const outer = `set -e
for root in /sys/fs/cgroup/*/; do
  dir=$root${world.name}/${layout}; mkdir -p $dir
  for at in $root${world.name} $dir; do for f in cpuset.cpus cpuset.mems; do
    [ ! -e $at/$f ] || cat $root$f > $at/$f
  done; done
  echo 0 > $dir/cgroup.procs
done
exec unshare --cgroup --pid --mount --uts --ipc --fork --kill-child --mount-proc sh -c "$1"`;
  const [file = "", ...args] = world.enter(["sh", "-c", outer, "sh", inner]);
  const child = spawn(file, args, { stdio: "ignore" });
  const deadline = performance.now() + START_LIMIT_MS;
  for (;;) {
    const init = descendants(child.pid ?? 0).find((pid) => nameOf(pid) === "systemd");
    if (init !== undefined && existsSync(`/proc/${init}/root/run/systemd/private`)) {
      return ["nsenter", "--target", String(init), "--all", "--wdns=/", "--"];
    }
    if (child.exitCode !== null || performance.now() > deadline) throw new Error("systemd does not start");
    await sleep(50);
  }
}

const descendants = (pid: number): number[] => childrenOf(pid).flatMap((one) => [one, ...descendants(one)]);

function nameOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return "";
  }
}

for (const layout of ["hybrid", "unified"] as const) {
  test(`with systemd as init, ${layout}: a delegated scope in the slice that was named`, async () => {
    const enter = await startSystemd(layout);
    const it = await seen([...enter, ...program("kube-pod1.slice:cri:abc")]);
    const scope = "cri-abc.scope";
    assert.deepEqual(it.unit.sort(), ["ActiveState=active", "Delegate=yes", "Slice=kube-pod1.slice"]);
    assertLife(it, `/kube.slice/kube-pod1.slice/${scope}`);
    assert.equal(it.metrics, layout === "hybrid" ? "v1" : "v2");
  });
}
