/** What the kernel could not deliver: notifications and dumps that are not whole. In a process of its own, which it blocks. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { NetnsResult } from "../../../src/native/net.ts";
import {
  dumpLinks,
  NetlinkMonitor,
  NetlinkProtocol,
  type NetlinkReply,
  type NetlinkRequest,
  NetlinkSocket,
  RouteGroup,
  repliesOf,
  setLink,
} from "../../../src/netlink/index.ts";
import { openNetns } from "../../../src/resources/net/netns.ts";
import { makePod } from "./pod-fixture.ts";

const LIMIT_MS = 10_000;
const ENOBUFS = 105;

test("a monitor whose notifications were lost says so, and goes on", async () => {
  const pod = await makePod();
  const netns = openNetns(pod.netnsPath);
  const seen = { changed: 0, overrun: 0, failed: [] as unknown[] };
  const monitor = await NetlinkMonitor.open(netns.fd, RouteGroup.Link | RouteGroup.Ipv4Address, {
    changed: () => void seen.changed++,
    overrun: () => void seen.overrun++,
    failed: (error) => void seen.failed.push(error),
  });
  const until = async (reached: () => boolean, what: string) => {
    const deadline = performance.now() + LIMIT_MS;
    while (!reached()) {
      if (performance.now() > deadline) assert.fail(`no ${what}: ${JSON.stringify(seen)}`);
      await sleep(5);
    }
  };
  try {
    // More than its buffer holds, while nobody reads.
    const lines = Array.from({ length: 20_000 }, (_, i) => `link set lo txqueuelen ${500 + (i % 2)}\n`);
    execFileSync("nsenter", [`--net=${pod.netnsPath}`, "ip", "-batch", "-"], { input: lines.join("") });
    await until(() => seen.overrun > 0, "word of lost notifications");
    await sleep(100);
    const { changed } = seen;
    await pod.inPod("ip addr add 10.88.9.9/32 dev eth0");
    await until(() => seen.changed > changed, "later notification");
    assert.deepEqual(seen.failed, []);
  } finally {
    monitor.close();
    netns.close();
    pod.close();
  }
});

/** Whose first answers are as of a dump that changed meanwhile. */
class ChangingSocket extends NetlinkSocket {
  left: number;
  attempts = 0;

  constructor(fd: number, times: number) {
    super(fd);
    this.left = times;
  }

  override async exchange(requests: readonly NetlinkRequest[]): Promise<NetlinkReply[]> {
    this.attempts++;
    const replies = await super.exchange(requests);
    return replies.map((reply) => ({ ...reply, interrupted: this.left-- > 0 }));
  }
}

test("a dump that changed meanwhile is read again, but not for ever", async () => {
  const pod = await makePod();
  const netns = openNetns(pod.netnsPath);
  const socket = await NetlinkSocket.open(netns.fd, NetlinkProtocol.Route);
  try {
    const changing = new ChangingSocket(socket.fd, 3);
    assert.equal((await changing.dump(dumpLinks())).length, 2);
    assert.equal(changing.attempts, 4);
    await assert.rejects(new ChangingSocket(socket.fd, 1000).dump(dumpLinks()), { code: "ERR_UNAVAILABLE" });
  } finally {
    socket.close();
    netns.close();
    pod.close();
  }
});

test("answers that were lost make a dump one to be repeated, and a change one whose fate is unknown", () => {
  const lost: NetnsResult = { errno: ENOBUFS, datagrams: [] };
  const [dump] = repliesOf(lost, 1, [dumpLinks()]);
  assert.deepEqual([dump?.interrupted, dump?.missing], [true, false]);
  const [change] = repliesOf(lost, 1, [setLink(1, { up: true })]);
  assert.deepEqual([change?.interrupted, change?.missing], [true, true]);
});
