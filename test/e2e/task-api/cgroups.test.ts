/** Where the processes of a sandbox are on the host: in its cgroup, in every hierarchy, until nothing is left of it. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { removeCgroup } from "../../../src/base/remove-cgroup.ts";
import { parseHierarchies } from "../../../src/resources/cgroup/hierarchies.ts";
import { describeResult } from "../../harness/run.ts";
import { withTestHost } from "../../harness/test-host.ts";

const { ledgeredTest } = withTestHost();
const hierarchies = parseHierarchies(readFileSync("/proc/self/mountinfo", "utf8"));
const withCpu = hierarchies.find(({ controllers }) => controllers.includes("cpu"));

/** Milliseconds for containerd to see a shim's death and to have its leftovers removed, on a busy machine. */
const DELETE_LIMIT_MS = 30_000;

/** What a sandbox runs on the host; without the kernel's vsock a backend of its own besides. */
const PROGRAMS = ["caisson-shim", "qemu-system", "virtiofsd"];
if (!existsSync("/dev/vhost-vsock")) PROGRAMS.push("vhost-device-vsock");

const directories = (path: string) => hierarchies.map(({ mountPoint }) => `${mountPoint}${path}`);
const read = (file: string) => readFileSync(file, "utf8").trim();
const pidsIn = (dir: string) => read(`${dir}/cgroup.procs`).split("\n").filter(Boolean).map(Number);

/** Microseconds of cpu time per 100 ms; undefined for no limit. */
function quota(path: string): number | undefined {
  if (withCpu !== undefined) {
    const value = Number(read(`${withCpu.mountPoint}${path}/cpu.cfs_quota_us`));
    return value < 0 ? undefined : value;
  }
  const [value = "max"] = read(`/sys/fs/cgroup${path}/cpu.max`).split(" ");
  return value === "max" ? undefined : Number(value);
}

ledgeredTest(
  "shim, QEMU, virtiofsd and vsock backend are in the sandbox's cgroup, and nobody else",
  async (host) => {
    const id = await host.runDetached(["sleep", "1000"]);
    const path = `/${host.world.name}/${id}`;
    const processes = host.world.processes();
    const runs = (program: string) => processes.filter(({ commandLine }) => commandLine.includes(program));
    for (const program of PROGRAMS)
      assert.ok(runs(program).length > 0, `${program}: ${JSON.stringify(processes)}`);
    const expected = [...new Set(PROGRAMS.flatMap(runs).map(({ pid }) => pid))].sort((a, b) => a - b);
    for (const dir of directories(path)) {
      const pids = pidsIn(dir);
      const outside = expected.filter((pid) => !pids.includes(pid));
      assert.deepEqual(outside, [], dir);
      // virtiofsd has a process in a pid namespace of its own, which is not one of the world's. What KVM and vhost start
      // for a QEMU is a thread of the kernel in old kernels (vhost's until 6.3): in its cgroup, without a command line.
      for (const pid of pids.filter((one) => !expected.includes(one))) {
        const program = read(`/proc/${pid}/cmdline`) || read(`/proc/${pid}/comm`);
        assert.match(program, /virtiofsd|^(vhost|kvm)-[a-z-]*\d+$/, dir);
      }
    }
    await host.remove(id);
    for (const dir of directories(path)) assert.ok(!existsSync(dir), dir);
  },
);

ledgeredTest(
  "a cpu quota holds on the host too, from when the guest is ready on, with the overhead",
  async (host) => {
    const id = host.newId();
    const path = `/${host.world.name}/${id}`;
    const flags = ["--detach", "--cpus", "0.5"];
    const before = host.containerd.log().length;
    const log = () => host.containerd.log().slice(before);
    let created = false;
    const creating = host.containerd
      .ctrOk(host.runArguments(["sleep", "1000"], { id, keep: true, flags }))
      .finally(() => {
        created = true;
      });
    // While QEMU boots there is none.
    const seen: (number | undefined)[] = [];
    while (!created) {
      const dir = directories(path).at(-1) ?? "";
      const booting = existsSync(dir) && pidsIn(dir).length >= PROGRAMS.length;
      if (booting && !log().includes("the guest is ready")) seen.push(quota(path));
      await sleep(20);
    }
    await creating;
    assert.ok(seen.length > 0 && seen.every((value) => value === undefined), seen.join());
    assert.equal(quota(path), 75_000);
    await host.remove(id);
  },
);

ledgeredTest("a killed shim's cgroups go with its sandbox", async (host) => {
  const id = await host.runDetached(["sleep", "1000"]);
  const shim = host.world.processes().find(({ commandLine }) => commandLine.startsWith("caisson-shim"));
  process.kill(shim?.pid ?? 0, "SIGKILL");
  // containerd has `delete` run when it sees that the shim is gone.
  const deadline = performance.now() + DELETE_LIMIT_MS;
  const left = () => directories(`/${host.world.name}/${id}`).filter((dir) => existsSync(dir));
  while (left().length > 0 && performance.now() < deadline) await sleep(50);
  assert.deepEqual(left(), []);
  await host.remove(id);
});

ledgeredTest("a cgroup in which others run is refused, and left alone", async (host) => {
  const taken = directories(`/${host.world.name}/taken`).at(-1) ?? "";
  mkdirSync(taken, { recursive: true });
  const other = spawn("sleep", ["1000"]);
  try {
    writeFileSync(`${taken}/cgroup.procs`, String(other.pid));
    const flags = ["--cgroup", `/${host.world.name}/taken`];
    const refused = await host.run(["true"], { flags });
    assert.match(refused.stderr, /processes of somebody else run in the cgroup/, describeResult(refused));
    assert.deepEqual(pidsIn(taken), [other.pid]);
  } finally {
    const gone = new Promise((resolve) => other.once("exit", resolve));
    other.kill("SIGKILL");
    await gone;
    await removeCgroup(taken, 0, 1_000);
  }
});
