/** Resource limits of a container, on the guest's own kernel with all cgroup v2 controllers. */
import assert from "node:assert/strict";
import { describeResult } from "../../harness/run.ts";
import { withTestHost } from "../../harness/test-host.ts";

const { ledgeredTest } = withTestHost();

const MIB = 1 << 20;
/** Shows the container its own cgroup. */
const CGROUP_MOUNT = ["--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=nosuid:noexec:nodev:ro"];

ledgeredTest("the limits of the spec are those of the container's cgroup", async (host) => {
  const flags = [
    ...CGROUP_MOUNT,
    ...["--memory-limit", String(48 * MIB)],
    ...["--cpu-quota", "30000", "--cpu-period", "60000", "--cpu-shares", "2048"],
  ];
  const files = "memory.max cpu.max cpu.weight cgroup.procs";
  const result = await host.run(["sh", "-c", `cd /sys/fs/cgroup && exec cat ${files}`], { flags });
  // 2048 shares are a weight of 174 on the curve that runc and crun document.
  assert.equal(result.stdout, `${48 * MIB}\n30000 60000\n174\n1\n`, describeResult(result));
});

ledgeredTest(
  "a limit below what the set-up of the process takes is kept, and the process starts",
  async (host) => {
    const flags = [...CGROUP_MOUNT, "--memory-limit", String(6 * MIB)];
    // The limit is set as soon as the program runs, which may be just after its first instructions.
    const wait = `while [ "$(cat memory.max)" != ${6 * MIB} ]; do sleep 0.01; done; echo kept`;
    const result = await host.run(["sh", "-c", `cd /sys/fs/cgroup; ${wait}`], { flags });
    assert.deepEqual([result.stdout, result.code], ["kept\n", 0], describeResult(result));
  },
);

ledgeredTest(
  "running out of memory ends what took it, and the container goes on without it",
  async (host) => {
    const flags = [...CGROUP_MOUNT, "--memory-limit", String(24 * MIB)];
    const id = await host.runDetached(["sleep", "1000"], { flags });
    const hog = await host.exec(id, ["tail", "/dev/zero"]);
    assert.equal(hog.code, 137, describeResult(hog));
    const after = await host.exec(id, ["grep", "-x", "oom_kill 1", "/sys/fs/cgroup/memory.events"]);
    assert.equal(after.code, 0, describeResult(after));
    await host.remove(id);
  },
);

ledgeredTest("a first process that runs out of memory ends the container with 137", async (host) => {
  const result = await host.run(["tail", "/dev/zero"], { flags: ["--memory-limit", String(24 * MIB)] });
  assert.equal(result.code, 137, describeResult(result));
});

ledgeredTest("a cpu quota slows the container down and shows in its metrics", async (host) => {
  const flags = ["--cpu-quota", "10000", "--cpu-period", "100000"];
  host.configure({ "runtime.stats_format": "v2" });
  const id = await host.runDetached(["sh", "-c", "while :; do :; done"], { flags });
  await new Promise((resolve) => setTimeout(resolve, 1500));
  const { stdout } = await host.containerd.ctrOk(["task", "metrics", "--format", "json", id]);
  const metrics = JSON.parse(stdout) as { cpu: { usage_usec: number; nr_throttled: number } };
  assert.ok(metrics.cpu.nr_throttled >= 5, stdout);
  assert.ok(metrics.cpu.usage_usec < 1_000_000, stdout);
  await host.remove(id);
});

ledgeredTest("devices that the spec does not allow cannot be opened", async (host) => {
  const script = "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem; head -c 1 /dev/zero | wc -c";
  const result = await host.run(["sh", "-c", script]);
  assert.match(result.stderr, /\/tmp\/mem: Operation not permitted/, describeResult(result));
  assert.equal(result.stdout, "1\n");
  const privileged = await host.run(["sh", "-c", "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg | wc -c"], {
    flags: ["--privileged"],
  });
  assert.equal(privileged.stdout, "1\n", describeResult(privileged));
});

ledgeredTest("nothing of the agent's file system is in the container's mount namespace", async (host) => {
  const result = await host.run(["cut", "-d ", "-f5", "/proc/self/mountinfo"]);
  const strange = result.stdout
    .trim()
    .split("\n")
    .filter((path) => !/^\/$|^\/(proc|dev|sys|run)(\/.*)?$/.test(path));
  assert.deepEqual(strange, [], describeResult(result));
});
