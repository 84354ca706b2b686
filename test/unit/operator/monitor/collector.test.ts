/** The collector over real sockets and journals, with shims whose answers the test holds back. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Control } from "../../../../src/gen/caisson/control/v1/control_pb.ts";
import { Collector, type CollectorTuning } from "../../../../src/operator/monitor/collector.ts";
import { hostDefinitions, stateOf } from "../../../../src/operator/monitor/metrics.ts";
import { MetricsPage } from "../../../../src/operator/monitor/metrics-page.ts";
import type { JournalRecord } from "../../../../src/persist/journal.ts";
import { processStartTime } from "../../../../src/persist/proc.ts";
import { sandboxPaths } from "../../../../src/persist/run-dir.ts";
import { serviceHandlers, TtrpcServer } from "../../../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../../../src/ttrpc/node-stream.ts";

const base = mkdtempSync(join(tmpdir(), "caisson-collector-"));
after(() => rmSync(base, { recursive: true, force: true }));

/** A shim of this process: counts what it is asked, and answers when `gate` lets it. */
class Shim implements Disposable {
  readonly found: { dir: string; journal: JournalRecord[] };
  asked = 0;
  gate: Promise<void> = Promise.resolve();
  guestError = "";
  readonly #server: net.Server;

  private constructor(dir: string, server: net.Server) {
    const startTime = processStartTime(process.pid) ?? "";
    const facts = { kind: "facts", facts: { sandbox: dir.slice(dir.lastIndexOf("/") + 1) } } as const;
    this.found = { dir, journal: [facts, { kind: "process", name: "shim", pid: process.pid, startTime }] };
    this.#server = server;
  }

  static async listen(id: string): Promise<Shim> {
    const dir = join(base, id);
    mkdirSync(dir, { recursive: true });
    const server = net.createServer({ allowHalfOpen: true }, (socket) => {
      void ttrpc.serve(byteStreamFromSocket(socket));
    });
    const shim = new Shim(dir, server);
    const ttrpc = new TtrpcServer({
      services: [
        serviceHandlers(Control, {
          status: () => ({ state: "running", consoleSessions: 2 }),
          stats: async () => {
            shim.asked += 1;
            await shim.gate;
            const guest = { memoryTotalBytes: BigInt(shim.asked) };
            return {
              state: "running",
              ...(shim.guestError === "" ? { guest } : { guestError: shim.guestError }),
            };
          },
          events: () => ({}),
        }),
      ],
    });
    await new Promise<void>((resolve) => server.listen(sandboxPaths(dir).controlSocket, resolve));
    return shim;
  }

  [Symbol.dispose](): void {
    this.#server.close();
  }
}

async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not within 20 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const collectorOf = (shims: readonly Shim[], tuning: Partial<CollectorTuning>) =>
  new Collector({ find: () => shims.map(({ found }) => found), tuning: { waitMs: 20_000, ...tuning } });

test("who asks twice gets what was seen before, with its age; nothing is asked again before its turn", async () => {
  using one = await Shim.listen("a");
  using two = await Shim.listen("b");
  using collector = collectorOf([one, two], { aheadMs: 60_000 });
  const first = await collector.collect();
  const second = await collector.collect();
  assert.deepEqual([one.asked, two.asked], [1, 1]);
  assert.equal(second.sandboxes[0], first.sandboxes[0]);
  const [sandbox] = second.sandboxes;
  assert.ok(sandbox?.up && sandbox.guestUp && stateOf(sandbox) === "running");
  assert.equal(sandbox.status?.consoleSessions, 2);
  const age = hostDefinitions.find(({ name }) => name === "caisson_guest_age_seconds");
  const seconds = () => age?.samples(second)[0]?.value ?? Number.NaN;
  const before = seconds();
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.ok(seconds() >= before + 0.029, "it grows");
});

test("each sandbox has its turn again and again without being waited for, until nobody asks any more", async () => {
  using one = await Shim.listen("c");
  using two = await Shim.listen("d");
  using collector = collectorOf([one, two], { aheadMs: 20 });
  await until("both are asked again", async () => {
    await collector.collect();
    return one.asked > 3 && two.asked > 3;
  });
  let last = -1;
  await until("the asking stops", async () => {
    const still = one.asked === last;
    last = one.asked;
    await new Promise((resolve) => setTimeout(resolve, 300));
    return still;
  });
  // The next who asks waits for new figures, as those of before the pause are old.
  const { sandboxes } = await collector.collect();
  assert.equal(sandboxes[0]?.stats?.guest?.memoryTotalBytes, BigInt(one.asked));
  assert.ok(one.asked > last);
});

test("who asks in a rhythm finds figures that were gathered since the last time, and once", async () => {
  using shim = await Shim.listen("k");
  using collector = collectorOf([shim], { aheadMs: 250 });
  const asked: number[] = [];
  let before = Number.NEGATIVE_INFINITY;
  for (let question = 0; question < 6; question++) {
    const { sandboxes, seconds } = await collector.collect();
    assert.ok((sandboxes[0]?.askedAtMs ?? 0) > before, `question ${question}`);
    if (question > 0) assert.ok(seconds < 0.25, "it waited");
    before = performance.now();
    asked.push(shim.asked);
    await new Promise((resolve) => setTimeout(resolve, 1_000));
  }
  // Every 200 ms without a pause would be some 25 times.
  assert.ok((asked.at(-1) ?? 0) - (asked[1] ?? 0) <= 8, String(asked));
});

test("a shim that hangs holds up nobody: it is down, its figures and their age stay, and it comes back", async () => {
  using hanging = await Shim.listen("e");
  using other = await Shim.listen("f");
  using collector = collectorOf([hanging, other], { aheadMs: 20, answerMs: 50 });
  const seen = async () => (await collector.collect()).sandboxes[0];
  const askedAt = (await seen())?.askedAtMs ?? Number.NaN;
  let release: () => void = () => undefined;
  hanging.gate = new Promise((resolve) => {
    release = resolve;
  });
  await until("it is down", async () => (await seen())?.up === false);
  const down = await seen();
  assert.ok(down !== undefined && stateOf(down) === "unresponsive");
  assert.ok((down.askedAtMs ?? Number.NaN) >= askedAt && down.stats?.guest !== undefined && !down.guestUp);
  const { asked } = hanging;
  const others = other.asked;
  await until("the other goes on", async () => {
    await seen();
    return other.asked > others + 3;
  });
  assert.equal(hanging.asked, asked, "an open question is not asked again");
  release();
  await until("it is up", async () => (await seen())?.up === true);
});

test("a sandbox whose first answer has not come yet is unknown, and neither up nor down", async () => {
  using shim = await Shim.listen("l");
  let release: () => void = () => undefined;
  shim.gate = new Promise((resolve) => {
    release = resolve;
  });
  using collector = new Collector({ find: () => [shim.found], tuning: { waitMs: 1, aheadMs: 60_000 } });
  const snapshot = await collector.collect();
  assert.deepEqual(snapshot.sandboxes.map(stateOf), ["unknown"]);
  assert.doesNotMatch(await (await MetricsPage.create()).render(snapshot), /^caisson_(sandbox|guest)_up\{/m);
  release();
  await until("it is known", async () => (await collector.collect()).sandboxes[0]?.up === true);
});

test("a guest that does not answer keeps its last figures, which grow old while those of its shim are new", async () => {
  using shim = await Shim.listen("g");
  using collector = collectorOf([shim], { aheadMs: 20 });
  const seen = async () => (await collector.collect()).sandboxes[0];
  const before = await seen();
  assert.equal(before?.guestUp, true);
  shim.guestError = "it hangs";
  await until("it is down", async () => (await seen())?.guestUp === false);
  const after = await seen();
  assert.ok(after?.up);
  assert.ok(after.stats?.guest !== undefined);
  assert.ok((after.askedAtMs ?? 0) > (after.guestAskedAtMs ?? Number.POSITIVE_INFINITY));
});

test("a sandbox that has gone is gone at once", async () => {
  using shim = await Shim.listen("h");
  const shims = [shim];
  using collector = collectorOf(shims, { aheadMs: 60_000 });
  assert.equal((await collector.collect()).sandboxes.length, 1);
  shims.pop();
  assert.deepEqual((await collector.collect()).sandboxes, []);
});

test("the page has each metric once, with the lines of all sandboxes and labels that are quoted", async () => {
  using one = await Shim.listen('i"');
  using two = await Shim.listen("j");
  using collector = collectorOf([one, two], { aheadMs: 60_000 });
  const page = await MetricsPage.create();
  const snapshot = await collector.collect();
  const text = await page.render(snapshot);
  const lines = text.split("\n");
  const types = lines.filter((line) => line.startsWith("# TYPE "));
  assert.equal(new Set(types).size, types.length);
  const up = lines.filter((line) => line.startsWith("caisson_sandbox_up{"));
  assert.deepEqual(up, [
    'caisson_sandbox_up{sandbox="i\\"",namespace="",pod="",pod_namespace=""} 1',
    'caisson_sandbox_up{sandbox="j",namespace="",pod="",pod_namespace=""} 1',
  ]);
  const head = lines.indexOf("# TYPE caisson_sandbox_up gauge");
  assert.deepEqual(lines.slice(head + 1, head + 3), up, "below their own head");
  assert.ok(lines.some((line) => line.startsWith("caisson_monitor_process_cpu_seconds_total ")));
  // The lines of a look that is the same are not made again.
  assert.equal(page.prepare(snapshot.sandboxes[0] as never), page.prepare(snapshot.sandboxes[0] as never));
});
