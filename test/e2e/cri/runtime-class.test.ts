/** The overhead that ships covers what an idle pod takes on this host. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { detectAccel } from "../../../src/hypervisor/accel.ts";
import type { IdlePod } from "../../../src/operator/idle-pod.ts";
import { memoryOf } from "../../../src/operator/verbs/overhead.ts";
import { assertEven, takeSnapshot } from "../../harness/leak-ledger.ts";
import { assertSetUp, built, repositoryRoot } from "../../harness/paths.ts";
import { runOk } from "../../harness/run.ts";
import { writeShimConfig } from "../../harness/shim-config.ts";
import { createWorld } from "../../harness/world.ts";

const MIB = 1 << 20;
const LIMIT_MS = 120_000;
/** What QEMU keeps of translated code where it emulates the processor (tb-size); what ships is for KVM. */
const TRANSLATED_MIB = detectAccel().accel === "tcg" ? 32 : 0;

test("shim overhead measures an idle pod, which fits into the RuntimeClass that ships, and leaves nothing", async () => {
  assertSetUp();
  await using world = await createWorld();
  const config = join(world.dir, "configuration.toml");
  // The memory that a user has who configures nothing.
  writeShimConfig(config, { "hypervisor.qemu.default_memory": 512 });
  const before = takeSnapshot(world);
  const measure = [join(built.bin, "shim"), "overhead", "--seconds", "2", "--config", config, "--json"];
  const { stdout } = await runOk(world.enter(measure), { timeoutMs: LIMIT_MS });
  const { memory, podFixed } = JSON.parse(stdout) as Pick<IdlePod, "memory"> & {
    readonly podFixed: { readonly memory: string };
  };
  for (const component of ["shim", "qemu", "virtiofsd"])
    assert.ok((memory[component]?.bytes ?? 0) > 0, component);
  const { bytes, fileBytes } = memoryOf({ memory });
  // QEMU alone maps the guest's kernel: some ten MiB.
  assert.ok(fileBytes > 8 * MIB, `${fileBytes} bytes of files`);
  const total = (bytes - fileBytes) / MIB;
  const file = join(repositoryRoot, "configs/kubernetes/runtimeclass.yaml");
  const shipped = parse(readFileSync(file, "utf8")) as { overhead: { podFixed: { memory: string } } };
  // With the tenth on top that is for what a pod comes to need.
  const [found, declared] = [podFixed, shipped.overhead.podFixed].map((it) => Number.parseInt(it.memory, 10));
  assert.ok(
    total > 30 && (found ?? 0) > total && (found ?? 0) <= (declared ?? 0) + TRANSLATED_MIB,
    `${total.toFixed(0)} MiB, which makes ${found}, and the RuntimeClass says ${declared}`,
  );
  await assertEven(world, before);
});
