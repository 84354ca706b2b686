/** Load on one shim in little: the whole is `npm run test:load`. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FaultHost } from "../../faults/fault-host.ts";
import { growthPerOperation } from "../../faults/growth.ts";
import { heapProbe, runLoad } from "../../faults/load-run.ts";

/**
 * Bytes that one exec may leave. So few execs do not fill the ring of events, which takes 1 KiB of this; one process
 * that is kept, with its streams and their buffers, is well above.
 */
const ALLOWED_BYTES = 24 * 1024;

test("execs and containers leave nothing in the shim that serves them", async () => {
  await using host = await FaultHost.start({ env: heapProbe });
  const plan = { series: 40, sampleEvery: 5, burst: 12, rounds: 2, perRound: 4, atOnce: 4 };
  const stages: string[] = [];
  const { samples, problems } = await runLoad(host, plan, (text) => void stages.push(text));
  assert.deepEqual(problems, [], stages.join("\n"));
  const growth = growthPerOperation(samples);
  const held = samples.map(({ bytes }) => bytes).join(" ");
  assert.ok(
    growth < ALLOWED_BYTES,
    `${Math.round(growth)} bytes per exec; held: ${held}\n${stages.join("\n")}`,
  );
});
