import assert from "node:assert/strict";
import { test } from "node:test";
import { agentRssMiB, guestMemory, meminfoMiB } from "../../../bench/guest-memory.ts";

const MEMINFO = `MemTotal:         223436 kB
MemFree:          201932 kB
MemAvailable:     199372 kB
Buffers:               4 kB
Cached:             4096 kB
SwapCached:            0 kB
Slab:               7782 kB
SReclaimable:        512 kB
SUnreclaim:         7270 kB
`;

test("guestMemory() counts as used what is neither free nor cache, and as not free all that is not", () => {
  const figures = new Map(guestMemory(MEMINFO));
  assert.equal(figures.get("not free"), 21);
  assert.equal(figures.get("used"), 21 - (4 + 4096 + 512) / 1024);
  assert.equal(figures.get("slab"), 7782 / 1024);
});

test("guestMemory() says which line it missed", () => {
  assert.throws(() => guestMemory("MemTotal: 1 kB\n"), /has no MemFree/);
});

test("meminfoMiB() reads one line", () => {
  assert.equal(meminfoMiB(MEMINFO, "MemAvailable"), 199372 / 1024);
  assert.throws(() => meminfoMiB(MEMINFO, "Mem"), /has no Mem/);
});

test("agentRssMiB() is what `shim stats --once --json` says of the only sandbox", () => {
  const stats = (guest: unknown, problem: string | null) => `${JSON.stringify([{ guest, problem }])}\n`;
  assert.equal(agentRssMiB(stats({ agentRssBytes: 3 << 20 }, null)), 3);
  assert.throws(() => agentRssMiB(stats(null, "no answer in 2 s")), /no answer in 2 s/);
  assert.throws(() => agentRssMiB("[]\n"), /no sandbox/);
});
