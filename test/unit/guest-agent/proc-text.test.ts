import assert from "node:assert/strict";
import { test } from "node:test";
import { busyTicks, freeBytesBelow, meminfoBytes, threadCount } from "../../../guest-agent/src/proc-text.ts";
import { parseUevent } from "../../../guest-agent/src/uevent.ts";

const meminfo =
  "MemTotal:         505388 kB\nMemFree:          1 kB\nMemAvailable:     471000 kB\nSwapTotal: 0 kB\n";

test("meminfoBytes() reads the line with exactly that key", () => {
  assert.equal(meminfoBytes(meminfo, "MemTotal"), 505388n * 1024n);
  assert.equal(meminfoBytes(meminfo, "MemAvailable"), 471000n * 1024n);
  assert.equal(meminfoBytes(meminfo, "SwapTotal"), 0n);
  assert.equal(meminfoBytes(meminfo, "Total"), 0n);
  assert.equal(meminfoBytes("", "MemTotal"), 0n);
});

test("parseUevent() reads the kernel's fields", () => {
  const text =
    "add@/devices/virtual/net/eth1\0ACTION=add\0DEVPATH=/devices/virtual/net/eth1\0SUBSYSTEM=net\0INTERFACE=eth1\0";
  const event = parseUevent(text);
  assert.equal(event?.action, "add");
  assert.equal(event?.subsystem, "net");
  assert.equal(event?.devpath, "/devices/virtual/net/eth1");
  assert.equal(event?.properties.get("INTERFACE"), "eth1");
});

test("parseUevent() refuses what is no kernel event", () => {
  assert.equal(parseUevent("libudev\0\0"), undefined);
  assert.equal(parseUevent(""), undefined);
});

test("busy time is all but idle and iowait; threads are those that exist", () => {
  const stat = "cpu  10 1 20 4000 300 2 3 4 0 0\ncpu0 10 1 20 4000 300 2 3 4 0 0\nintr 5\n";
  assert.deepEqual(busyTicks(stat), { all: 40n, kernel: 25n });
  assert.deepEqual(busyTicks(""), { all: 0n, kernel: 0n });
  assert.equal(threadCount("0.20 0.18 0.12 1/80 11206\n"), 80);
  assert.equal(threadCount(""), 0);
});

test("freeBytesBelow() counts the free blocks of less than 2^order pages of all zones", () => {
  const buddyinfo =
    "Node 0, zone      DMA      0      1      0      1 \nNode 0, zone    DMA32      3      2      1      9 \n";
  assert.equal(freeBytesBelow(buddyinfo, 3), (2 + 3 + 4 + 4) * 4096);
  assert.equal(freeBytesBelow(buddyinfo, 1), 3 * 4096);
  assert.equal(freeBytesBelow("", 9), 0);
});
