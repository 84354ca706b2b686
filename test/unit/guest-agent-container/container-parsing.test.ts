import assert from "node:assert/strict";
import { test } from "node:test";
import { capabilitySets } from "../../../guest-agent/src/container/capability-sets.ts";
import {
  collectStats,
  flatKeyed,
  hugePageSizes,
  parseIoStat,
  parseNetDev,
} from "../../../guest-agent/src/container/container-stats.ts";
import { topMountPoints } from "../../../guest-agent/src/container/mountinfo.ts";
import { sysctlPath } from "../../../guest-agent/src/container/sysctl-path.ts";

test("capability names become bits, with or without prefix; unknown ones are left out", () => {
  const sets = capabilitySets({
    bounding: ["CAP_CHOWN", "KILL", "CAP_CHECKPOINT_RESTORE", "CAP_FROM_THE_FUTURE"],
    effective: [],
    permitted: ["CAP_SYS_ADMIN"],
    inheritable: [],
    ambient: ["CAP_BPF"],
  });
  assert.equal(sets.bounding, 1n | (1n << 5n) | (1n << 40n));
  assert.equal(sets.permitted, 1n << 21n);
  assert.equal(sets.ambient, 1n << 39n);
  assert.equal(capabilitySets(undefined).bounding, 0n);
  const pair = ["CAP_KILL", "CAP_CHOWN"];
  const joined = {
    bounding: ["CAP_KILL CAP_CHOWN"],
    effective: pair,
    permitted: [],
    inheritable: [],
    ambient: pair,
  };
  for (let i = 0; i < 2; i++) {
    const { bounding, effective, ambient } = capabilitySets(joined);
    assert.deepEqual([bounding, effective, ambient], [0n, 0b100001n, 0b100001n]);
  }
});

test("sysctl keys take dots or slashes, and stay below /proc/sys", () => {
  assert.equal(sysctlPath("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
  assert.equal(
    sysctlPath("net/ipv4/conf/eth0.100/forwarding"),
    "/proc/sys/net/ipv4/conf/eth0.100/forwarding",
  );
  assert.equal(
    sysctlPath("net.ipv4.conf.eth0/100.forwarding"),
    "/proc/sys/net/ipv4/conf/eth0.100/forwarding",
  );
  for (const bad of ["", "kernel", "net/../kernel/x", "net..x", "/etc/passwd", "kernel.//"]) {
    assert.throws(() => sysctlPath(bad), /is not a name of a kernel parameter/, bad);
  }
});

test("the mounts that hang on the root are found, whatever hangs below them is not", () => {
  const line = (path: string) => `1 2 0:3 / ${path} rw,relatime - tmpfs tmpfs rw`;
  const mountinfo = [
    "/",
    "/proc",
    "/dev",
    "/dev/pts",
    "/run/caisson/shared",
    "/run/caisson/shared/c/rootfs",
    "/a\\040b",
    "/r",
    "/r/x",
  ]
    .map(line)
    .join("\n");
  assert.deepEqual(topMountPoints(`${mountinfo}\n`, "/r"), ["proc", "dev", "run/caisson/shared", "a b"]);
});

test("flat-keyed files keep numbers only", () => {
  assert.deepEqual(flatKeyed("anon 5\nbad\nfile x\nkernel 18446744073709551615\n"), {
    anon: 5n,
    kernel: 18446744073709551615n,
  });
  assert.deepEqual(flatKeyed(undefined), {});
});

test("io.stat and /proc/net/dev are read", () => {
  assert.deepEqual(parseIoStat("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:0 \ngarbage\n"), [
    { major: 8, minor: 0, rbytes: 1n, wbytes: 2n, rios: 3n, wios: 4n },
  ]);
  const netDev =
    "Inter-|   Receive |  Transmit\n face |bytes |bytes\n" +
    "    lo:       1    2    3    4    0     0          0         0        5    6    7    8    0     0       0          0\n" +
    "eth0:1:10 20 0 0 0 0 0 0 30 40 0 0 0 0 0 0\nshort: 1 2\n";
  assert.deepEqual(
    parseNetDev(netDev).map(({ name, rxBytes, rxErrors, txBytes, txDropped }) => [
      name,
      rxBytes,
      rxErrors,
      txBytes,
      txDropped,
    ]),
    [
      ["lo", 1n, 3n, 5n, 8n],
      ["eth0:1", 10n, 0n, 30n, 0n],
    ],
  );
});

test("stats say what the files say, and no limit is the largest number", () => {
  const files: Readonly<Record<string, string>> = {
    "cpu.stat": "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_periods 1\nnr_throttled 2\nthrottled_usec 3\n",
    "memory.current": "4096\n",
    "memory.max": "max\n",
    "memory.peak": "8192\n",
    "memory.events": "low 0\nhigh 0\nmax 1\noom 1\noom_kill 1\n",
    "memory.stat": "anon 1\ninactive_file 2\n",
    "pids.current": "3\n",
    "pids.max": "10\n",
    "hugetlb.2MB.current": "0\n",
  };
  const stats = collectStats((file) => files[file], "", ["2MB"]);
  assert.equal(stats.cpu?.usageUsec, 10n);
  assert.equal(stats.memory?.usageLimit, 2n ** 64n - 1n);
  assert.equal(stats.memory?.maxUsage, 8192n);
  assert.deepEqual(stats.memory?.events, { low: 0n, high: 0n, max: 1n, oom: 1n, oom_kill: 1n });
  assert.deepEqual(stats.pids, { current: 3n, limit: 10n });
  assert.deepEqual(stats.hugetlb, [{ pageSize: "2MB", current: 0n, max: 2n ** 64n - 1n }]);
});

test("hugepage sizes are those of the files", () => {
  assert.deepEqual(
    hugePageSizes(["hugetlb.2MB.max", "hugetlb.1GB.max", "hugetlb.2MB.rsvd.max", "memory.max"]),
    ["2MB", "1GB"],
  );
});
