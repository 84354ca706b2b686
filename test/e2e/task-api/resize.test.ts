/** A machine that grows and shrinks while it runs, as seen in its guest. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import { Status } from "../../../src/base/errors.ts";
import { scaledMs } from "../../../src/base/timeouts.ts";
import { MetricsSchema } from "../../../src/gen/io/containerd/cgroups/v2/metrics_pb.ts";
import type { OciResources } from "../../../src/oci/spec.ts";
import { statusOf } from "../../../src/ttrpc/index.ts";
import { createWorld, type World } from "../../harness/world.ts";
import { MatrixPod, resourcesOf } from "./call-matrix.ts";
import { execOutput } from "./exec-output.ts";

const MIB = 1 << 20;
/** Milliseconds that the guest may take to give memory back: it moves what is in use, in software emulation. */
const GIVE_BACK_MS = scaledMs(60_000);

let world: World;
let pod: MatrixPod;
/** The guest's memory before any was added. */
let bootMiB: number;
before(async () => {
  world = await createWorld();
  // Also where the host has fewer.
  const config = { "runtime.stats_format": "v2", "hypervisor.qemu.default_maxvcpus": 2 } as const;
  pod = await MatrixPod.start(world, "pod", { config });
});
after(async () => {
  await pod?.[Symbol.asyncDispose]();
  await world?.[Symbol.asyncDispose]();
});

const shell = async (id: string, script: string) =>
  (await execOutput(pod, id, ["sh", "-c", script])).stdout.trim();
const cpus = async (id: string) => Number(await shell(id, "nproc"));
const totalMiB = async (id: string) =>
  Number(await shell(id, "grep MemTotal /proc/meminfo | tr -dc 0-9")) / 1024;

async function running(resources: OciResources = {}): Promise<string> {
  const id = pod.newId();
  await pod.create(id, ["sleep", "1000"], resources);
  await pod.task.start({ id });
  return id;
}

async function remove(id: string): Promise<void> {
  await pod.task.kill({ id, signal: 9 });
  await pod.task.wait({ id });
  await pod.task.delete({ id });
}

async function untilTotalIsBelow(id: string, mebibytes: number): Promise<void> {
  const deadline = performance.now() + GIVE_BACK_MS;
  for (;;) {
    const now = await totalMiB(id);
    if (now < mebibytes) return;
    if (performance.now() > deadline) throw new Error(`still ${now} MiB, not below ${mebibytes} MiB`);
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

test("Update beyond the machine's size gives the guest vCPUs and memory, and one to less takes memory back", async () => {
  const id = await running();
  assert.equal(await cpus(id), 1);
  bootMiB = await totalMiB(id);
  const limits = { memory: { limit: 300 * MIB }, cpu: { quota: 200_000, period: 100_000 } };
  await pod.task.update({ id, resources: resourcesOf(limits) });
  assert.equal(await cpus(id), 2);
  assert.equal(await totalMiB(id), bootMiB + 3 * 128, "300 MiB in blocks of 128 MiB");

  // The kernel takes from the added memory first; what virtio-fs delivers into it must be right.
  const bytes = randomBytes(64 * MIB);
  writeFileSync(join(world.dir, "busybox-root/tmp/big"), bytes);
  const digest = createHash("md5").update(bytes).digest("hex");
  assert.equal(await shell(id, "md5sum < /tmp/big"), `${digest}  -`);

  await pod.task.update({ id, resources: resourcesOf({ memory: { limit: 100 * MIB } }) });
  await untilTotalIsBelow(id, bootMiB + 2 * 128);
  assert.equal(await cpus(id), 2, "vCPUs stay");
  await remove(id);
});

test("a container that comes with limits beyond the machine's size makes it grow", async () => {
  const first = await running();
  // What its kernel cannot move stays: a few pieces of 2 MiB.
  await untilTotalIsBelow(first, bootMiB + 100);
  const second = await running({ memory: { limit: 200 * MIB } });
  assert.ok((await totalMiB(second)) >= bootMiB + 2 * 128);
  await remove(second);
  await remove(first);
});

test("a size beyond what is configured is refused at once with the key to raise, and changes nothing", async () => {
  const id = await running({ memory: { limit: 64 * MIB } });
  const refused = (resources: object, pattern: RegExp) =>
    assert.rejects(pod.task.update({ id, resources: resourcesOf(resources) }), (error: Error) => {
      assert.equal(statusOf(error).code, Status.ResourceExhausted, error.message);
      assert.match(error.message, pattern);
      return true;
    });
  await refused(
    { memory: { limit: 2 ** 50 } },
    /would need \d+ MiB .* raise hypervisor\.qemu\.default_maxmemory/,
  );
  await refused(
    { cpu: { quota: 100_000_000 } },
    /would need 1000 vCPUs .* raise hypervisor\.qemu\.default_maxvcpus/,
  );
  const { stats } = await pod.task.stats({ id });
  const { memory } = fromBinary(MetricsSchema, stats?.value ?? new Uint8Array());
  assert.equal(memory?.usageLimit, BigInt(64 * MIB));
  await remove(id);
});
