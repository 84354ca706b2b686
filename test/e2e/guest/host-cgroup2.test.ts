/**
 * The sandbox's cgroup on a host whose controllers are all those of cgroup version 2. A machine with version 1 has none left
 * to give; a guest of ours has, and is as good a Linux: the same program as in test/integration/cgroup runs in one.
 */
import assert from "node:assert/strict";
import { readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import { sharesToWeight } from "../../../src/base/cpu-weight.ts";
import { busyboxRootfs, busyboxSpec, DirectShim } from "../../harness/direct-shim.ts";
import { repositoryRoot } from "../../harness/paths.ts";
import { createWorld, type World } from "../../harness/world.ts";

let world: World;
before(async () => {
  world = await createWorld();
});
after(() => world?.[Symbol.asyncDispose]());

/** Where Node finds its libraries on Debian. */
const LIBRARIES = ["/lib/x86_64-linux-gnu", "/lib64"];
const bind = (source: string, destination: string) => ({
  destination,
  type: "bind",
  source: realpathSync(source),
  options: ["rbind", "ro"],
});

test("cpu time, weight and cpus are limited, and the cgroup goes", async () => {
  const program = join(world.dir, "enter.mjs");
  await build({
    entryPoints: [join(repositoryRoot, "test/integration/cgroup/fixtures/enter.ts")],
    outfile: program,
    bundle: true,
    platform: "node",
    format: "esm",
    logLevel: "error",
  });
  // No process may be where controllers are handed on from.
  const script =
    "cd /sys/fs/cgroup && mkdir own && echo 0 > own/cgroup.procs && exec /host/node /host/enter.mjs /two/abc";
  const base = busyboxSpec(world, "v2", ["sh", "-c", script]);
  const cgroup = { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["rw"] };
  const spec = {
    ...base,
    mounts: [
      ...(base.mounts ?? []),
      cgroup,
      bind(process.execPath, "/host/node"),
      bind(program, "/host/enter.mjs"),
      ...LIBRARIES.map((dir) => bind(dir, dir)),
    ],
  };
  const config = { "hypervisor.qemu.default_memory": 512, "hypervisor.qemu.default_vcpus": 2 };
  await using shim = await DirectShim.start({ world, id: "v2", spec, config });
  const task = await shim.task();
  const [stdout, stderr] = [join(world.dir, "out"), join(world.dir, "errors")];
  const rootfs = [await busyboxRootfs(world)];
  await task.create({
    id: "v2",
    bundle: shim.bundle,
    rootfs,
    stdout: `file://${stdout}`,
    stderr: `file://${stderr}`,
  });
  await task.start({ id: "v2" });
  const { exitStatus } = await task.wait({ id: "v2" });
  await task.delete({ id: "v2" });
  assert.equal(exitStatus, 0, readFileSync(stderr, "utf8"));
  const seen = JSON.parse(readFileSync(stdout, "utf8")) as Readonly<Record<string, unknown>>;
  const { directories, limits, allowed, metrics, warnings, left } = seen;
  assert.deepEqual(directories, ["/sys/fs/cgroup/two/abc"]);
  assert.deepEqual(limits, ["cpuset.cpus=0", "cpu.max=50000 100000", `cpu.weight=${sharesToWeight(2048n)}`]);
  assert.deepEqual([allowed, metrics, warnings, left], [["1", "0-1", "0"], "v2", [], []]);
});
