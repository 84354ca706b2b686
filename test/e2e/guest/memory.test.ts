/** What an idle guest uses of its memory, and what of its kernel is left out for that. */
import assert from "node:assert/strict";
import { budgets } from "../../../bench/budgets.ts";
import { guestMemory } from "../../../bench/guest-memory.ts";
import { describeResult } from "../../harness/run.ts";
import { type TestHost, withTestHost } from "../../harness/test-host.ts";

const { ledgeredTest } = withTestHost();

/** Runs `body` with a container that may mount. */
async function withContainer(
  host: TestHost,
  flags: readonly string[],
  body: (id: string) => Promise<void>,
): Promise<void> {
  const id = await host.runDetached(["sleep", "1000"], { flags: ["--cap-add", "CAP_SYS_ADMIN", ...flags] });
  try {
    await body(id);
  } finally {
    await host.remove(id);
  }
}

/** Names of the groups of trace events in the guest of `id`; none where there is no directory for them. */
async function traceEvents(host: TestHost, id: string): Promise<string[]> {
  const script = "mkdir /trace && mount -t tracefs tracefs /trace && { ls /trace/events 2>/dev/null; true; }";
  const result = await host.exec(id, ["sh", "-c", script]);
  assert.equal(result.code, 0, describeResult(result));
  return result.stdout.split("\n").filter((name) => name !== "");
}

ledgeredTest("an idle guest keeps within the budget of its memory, and has no trace events", (host) =>
  withContainer(host, [], async (id) => {
    const figures = new Map(guestMemory((await host.exec(id, ["cat", "/proc/meminfo"])).stdout));
    const limit = budgets.find(({ measure }) => measure === "guest: used")?.limit ?? Number.NaN;
    const used = figures.get("used") ?? Number.NaN;
    assert.ok(used <= limit, `${used} MiB of at most ${limit}`);
    assert.deepEqual(await traceEvents(host, id), []);
    const lists = await host.exec(id, ["cat", "/proc/sys/vm/percpu_pagelist_high_fraction"]);
    assert.equal(lists.stdout, "256\n", "free pages are not hoarded");
    const missing = await host.exec(id, [
      "sh",
      "-c",
      "ls /sys/kernel/slab; wc -l < /proc/slabinfo; ls /trace",
    ]);
    assert.match(missing.stderr, /\/sys\/kernel\/slab: No such file/, describeResult(missing));
    const [caches = "", ...tracing] = missing.stdout.trim().split("\n");
    assert.ok(Number(caches) > 50, "slabtop's own source is there");
    for (const name of ["kprobe_events", "uprobe_events"]) assert.ok(tracing.includes(name), missing.stdout);
  }),
);

ledgeredTest("a pod that may and does ask for it has its kernel's trace events", (host) => {
  host.configure({ "hypervisor.qemu.enable_annotations": ["guest_tracefs"] });
  const annotation = ["--annotation", "io.caisson.config.hypervisor.guest_tracefs=true"];
  return withContainer(host, annotation, async (id) => {
    assert.ok((await traceEvents(host, id)).includes("sched"));
  });
});
