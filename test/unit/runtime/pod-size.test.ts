import assert from "node:assert/strict";
import { test } from "node:test";
import type { GuestAgent } from "../../../src/agent/guest-agent.ts";
import { SandboxError } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import type { RunningVm } from "../../../src/hypervisor/hypervisor.ts";
import type { OciResources } from "../../../src/oci/spec.ts";
import { PodSize } from "../../../src/runtime/pod-size.ts";

const MIB = 1 << 20;
const boot = { cpus: 1, memoryMiB: 256 };
const limits = { baseCpus: 1, baseMemoryMiB: 256, maxCpus: 4, maxMemoryMiB: 1024 };

/** A machine that gives what it is asked for, as far as `guest` lets it, and notes what it was asked. */
function machine(guest: { cpus?: number; stepsOfMiB?: number; addedMiB?: number } = {}) {
  const asked: string[] = [];
  const hostCpus: (number | undefined)[] = [];
  let cpus = boot.cpus;
  let offered = 0;
  let taken = 0;
  const hotplug = {
    addCpus: async (count: number) => {
      asked.push(`cpus +${count}`);
      cpus = Math.min(cpus + count, guest.cpus ?? Number.POSITIVE_INFINITY);
      return count;
    },
    setAddedMemory: async (sizeMiB: number) => {
      asked.push(`memory ${sizeMiB}`);
      offered = Math.min(sizeMiB, guest.addedMiB ?? Number.POSITIVE_INFINITY);
    },
  };
  const total = () => BigInt(boot.memoryMiB + taken - 30) * BigInt(MIB);
  const calls = {
    guestInfo: async () => ({ memoryTotalBytes: total() }),
    onlineResources: async () => {
      taken = Math.min(offered, taken + (guest.stepsOfMiB ?? 1_000_000));
      return { onlineCpus: cpus, memoryTotalBytes: total() };
    },
  };
  const size = new PodSize({
    boot,
    limits,
    log: silentLog,
    limitHostCpu: (cpus) => void hostCpus.push(cpus),
    machine: async () => ({
      vm: { hotplug: Promise.resolve(hotplug) } as unknown as RunningVm,
      agent: { calls } as unknown as GuestAgent,
    }),
  });
  return { size, asked, hostCpus };
}

const memory = (mebibytes: number): OciResources => ({ memory: { limit: mebibytes * MIB } });
const cpu = (quota: number): OciResources => ({ cpu: { quota, period: 100_000 } });
const exhausted = (pattern: RegExp) => (error: unknown) =>
  error instanceof SandboxError && error.code === "ERR_EXHAUSTED" && pattern.test(error.message);

test("a container with limits beyond the machine's size makes it grow in whole blocks, others do not", async () => {
  const { size, asked } = machine();
  await size.admit("a", undefined);
  await size.admit("b", { cpu: { quota: -1 }, memory: { limit: -1 } });
  assert.deepEqual(asked, []);
  await size.admit("c", { ...memory(100), ...cpu(150_000) });
  assert.deepEqual(asked, ["cpus +1", "memory 128"]);
  await size.admit("d", memory(20));
  assert.deepEqual(asked.slice(2), [], "there is room in the block");
});

test("an update grows the machine before its limits are set, and one to less gives back afterwards", async () => {
  const { size, asked, hostCpus } = machine({ stepsOfMiB: 128 });
  const apply = async () => void asked.push("apply");
  await size.admit("a", memory(64));
  asked.length = 0;
  await size.update("a", { ...memory(500), ...cpu(300_000) }, apply);
  assert.deepEqual(asked, ["cpus +2", "memory 512", "apply"]);
  await size.update("a", { memory: { limit: 0 }, cpu: { quota: 100_000 } }, apply);
  assert.deepEqual(asked.slice(3), ["apply"], "0 says nothing, vCPUs stay");
  await size.update("a", memory(200), apply);
  assert.deepEqual(asked.slice(4), ["apply", "memory 256"]);
  await size.release("a");
  await size.release("a");
  assert.deepEqual(asked.slice(6), ["memory 0"]);
  assert.deepEqual(hostCpus, [undefined, 3, 1, 1], "the host's limit follows");
});

test("an update beyond the configured limits is refused with the key to raise, before anything changes", async () => {
  const { size, asked } = machine();
  const apply = async () => void asked.push("apply");
  await size.admit("a", memory(64));
  asked.length = 0;
  await assert.rejects(
    size.update("a", memory(2048), apply),
    exhausted(/2304 MiB .*1024 MiB.*default_maxmemory/),
  );
  await assert.rejects(size.update("a", cpu(500_000), apply), exhausted(/5 vCPUs .*4: .*default_maxvcpus/));
  assert.deepEqual(asked, []);
  // A container comes all the same, and what is too much already may become less.
  await size.admit("b", memory(4096));
  await size.update("b", memory(3000), apply);
  assert.deepEqual(asked, ["memory 768", "apply"]);
});

test("a guest that does not follow is an error that says what its kernel lacks; the memory is taken back", async () => {
  const { size, asked } = machine({ addedMiB: 128 });
  const apply = async () => void asked.push("apply");
  const host = (pattern: RegExp) => (error: unknown) =>
    error instanceof SandboxError && error.code === "ERR_HOST" && pattern.test(error.message);
  await assert.rejects(size.update("a", memory(256), apply), host(/354 of 482 MiB.*virtio_mem/));
  assert.deepEqual(asked, ["memory 256", "memory 0"]);
  const few = machine({ cpus: 1 });
  await assert.rejects(few.size.update("a", cpu(200_000), apply), host(/1 of 2 vCPUs.*default_vcpus/));
});
