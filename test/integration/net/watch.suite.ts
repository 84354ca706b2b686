/** Following a namespace after the boot. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import type { ApplyNetworkRequest } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { type PodNetwork, PodNetworkWatch, type PodNic } from "../../../src/resources/net/index.ts";
import { framesTowards } from "./frames.ts";
import { FrameSocket, makePod, snapshot } from "./pod-fixture.ts";

const LIMIT_MS = 5_000;

type Event =
  | { readonly kind: "added" | "removed"; readonly nic: PodNic }
  | { readonly kind: "guest"; readonly guest: ApplyNetworkRequest };

/** The events of a watch, in order, to be awaited. */
class Recorder {
  readonly events: Event[] = [];
  /** Whether the machine has no place for a NIC. */
  full = false;
  #wake: () => void = () => undefined;

  open(network: PodNetwork): Promise<PodNetworkWatch> {
    const note = async (event: Event) => {
      this.events.push(event);
      this.#wake();
    };
    return PodNetworkWatch.open(
      network,
      {
        nicAdded: async (nic) => {
          await note({ kind: "added", nic });
          if (this.full) throw new SandboxError("ERR_EXHAUSTED", "no free port");
        },
        nicRemoved: (nic) => note({ kind: "removed", nic }),
        guestChanged: (guest) => note({ kind: "guest", guest }),
      },
      silentLog,
    );
  }

  /** Takes events up to the first for which `wanted` holds. */
  async next(what: string, wanted: (event: Event) => boolean): Promise<Event> {
    const end = Date.now() + LIMIT_MS;
    for (;;) {
      const at = this.events.findIndex(wanted);
      const [event] = at < 0 ? [] : this.events.splice(0, at + 1).slice(-1);
      if (event !== undefined) return event;
      if (Date.now() > end) assert.fail(`no ${what}; seen: ${JSON.stringify(this.events)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.max(1, end - Date.now()));
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  guest(what: string, wanted: (guest: ApplyNetworkRequest) => boolean): Promise<Event> {
    return this.next(what, (event) => event.kind === "guest" && wanted(event.guest));
  }
}

const addressesOf = (guest: ApplyNetworkRequest, name: string) =>
  guest.interfaces.find((entry) => entry.name === name)?.addresses ?? [];

export function watchSuite(): void {
  for (const model of ["tcfilter", "ebpf"] as const) {
    test(`${model}: an interface added later is wired, told and, when it goes, taken back`, async () => {
      const pod = await makePod();
      const before = await snapshot(pod);
      const attached = await pod.attach({ model });
      const recorder = new Recorder();
      const watch = await recorder.open(attached.network);
      try {
        await pod.inHost(`ip link add h1 type veth peer name net1 netns ${pod.netnsPath}; ip link set h1 up`);
        await pod.inPod("ip link set net1 address 02:ca:15:50:01:05 up; ip addr add 10.99.0.5/24 dev net1");
        const added = await recorder.next("NIC", (event) => event.kind === "added");
        assert.ok(added.kind === "added");
        assert.deepEqual([added.nic.ifname, added.nic.tapName], ["net1", "tap1_caisson"]);
        assert.equal(attached.records.length, 2, "journalled before it was wired");
        await recorder.guest("guest with net1", (guest) => addressesOf(guest, "net1")[0] === "10.99.0.5/24");
        const guest = new FrameSocket(added.nic.tapFds[0] ?? -1);
        const bytes = framesTowards("guest").get("broadcast") ?? Buffer.alloc(0);
        pod.probe.send(bytes);
        assert.ok(await attached.guest.next((frame) => frame.equals(bytes), 2_000), "eth0 is as it was");
        await pod.inHost(
          "ip neigh add 10.99.0.9 lladdr 02:00:00:00:00:09 dev h1; ip addr add 10.99.0.1/24 dev h1; bash -c 'echo hi > /dev/udp/10.99.0.9/9'",
        );
        assert.ok(
          await guest.next((frame) => frame.readUInt16BE(12) === 0x0800, 2_000),
          "net1 leads to its tap",
        );
        guest.close();
        await pod.inPod("ip link del net1");
        const removed = await recorder.next("removal", (event) => event.kind === "removed");
        assert.ok(removed.kind === "removed" && removed.nic === added.nic);
        await recorder.guest("guest without net1", (now) => now.interfaces.length === 1);
        await watch.close();
        assert.doesNotMatch(await pod.inPod("ip link show"), /tap1_caisson/);
        assert.equal(attached.open.size, 1, "what was undone is noted");
        assert.deepEqual(
          attached.network.nics.map((nic) => nic.ifname),
          ["eth0"],
        );
        await attached.detach();
        assert.equal(await snapshot(pod), before);
      } finally {
        await watch.close();
        await attached.detach();
        pod.close();
      }
    });
  }

  test("an interface that the machine has no place for is tried once, then when it changes, a place is free or time has passed", async () => {
    const pod = await makePod();
    const attached = await pod.attach({ model: "tcfilter" });
    const recorder = new Recorder();
    const watch = await recorder.open(attached.network);
    const tried = () =>
      recorder.events.flatMap((event) => (event.kind === "added" ? [event.nic.ifname] : []));
    /** Lets the kernel tell of all that was done, and that be followed, several times. */
    const calm = async () => {
      for (let i = 0; i < 6; i++) {
        await watch.settled();
        await new Promise((resolve) => setTimeout(resolve, 60));
      }
    };
    try {
      const add = async (name: string) => {
        await pod.inHost(`ip link add h-${name} type veth peer name ${name} netns ${pod.netnsPath}`);
        await pod.inPod(`ip link set ${name} up`);
      };
      await add("net1");
      await recorder.next("NIC", (event) => event.kind === "added");
      recorder.full = true;
      await add("net2");
      await add("net3");
      await calm();
      assert.deepEqual(tried().sort(), ["net2", "net3"]);
      assert.doesNotMatch(await pod.inPod("ip link show"), /tap2_caisson/);
      assert.equal(attached.open.size, 2, "records of eth0 and net1");
      recorder.events.length = 0;
      // The others are followed all the same.
      await pod.inPod("ip addr add 10.88.7.7/16 dev eth0");
      await recorder.guest("address", (guest) => addressesOf(guest, "eth0").includes("10.88.7.7/16"));
      await calm();
      assert.deepEqual(tried(), []);
      await pod.inPod("ip link set net2 address 02:ca:15:50:01:07");
      await calm();
      assert.deepEqual(tried(), ["net2"]);
      recorder.events.length = 0;
      await recorder.next("second try", (event) => event.kind === "added" && event.nic.ifname === "net3");
      recorder.events.length = 0;
      recorder.full = false;
      await pod.inPod("ip link del net1");
      await calm();
      assert.deepEqual(tried().sort(), ["net2", "net3"]);
    } finally {
      await watch.close();
      await attached.detach();
      pod.close();
    }
  });

  test("changed addresses, routes, rules, neighbours and MTU reach the guest as a whole, and the tap's MTU follows", async () => {
    const pod = await makePod();
    const attached = await pod.attach({ model: "tcfilter" });
    const recorder = new Recorder();
    const watch = await recorder.open(attached.network);
    try {
      await pod.inPod(`ip addr add 10.88.7.7/16 dev eth0
ip route add 10.44.0.0/16 via 10.88.0.9
ip neigh add 10.88.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent`);
      const event = await recorder.guest(
        "changes",
        (guest) => guest.neighbours.length === 1 && addressesOf(guest, "eth0").includes("10.88.7.7/16"),
      );
      assert.ok(event.kind === "guest");
      assert.ok(event.guest.routes.some((route) => route.destination === "10.44.0.0/16"));
      await pod.inPod("ip addr del 10.88.7.7/16 dev eth0; ip link set eth0 mtu 1300");
      await recorder.guest(
        "removal",
        (guest) => addressesOf(guest, "eth0").length === 2 && guest.interfaces[0]?.mtu === 1300,
      );
      assert.match(await pod.inPod("ip -o link show tap0_caisson"), / mtu 1300 /);
      await pod.inPod("ip -6 rule add from fd00:88::5 lookup 100");
      await recorder.guest("rule of IPv6", (guest) => guest.rules.length === 1);
      await pod.inPod("ip rule add from 10.88.0.5 lookup 100");
      await recorder.guest("rule of IPv4", (guest) => guest.rules.length === 2);
      await pod.inPod("ip -6 rule del from fd00:88::5 lookup 100");
      await recorder.guest("removal of a rule", (guest) => guest.rules.length === 1);
      // What the namespace's kernel learns by itself is nobody's business.
      recorder.events.length = 0;
      await pod.inPod("ip neigh add 10.88.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud reachable");
      await new Promise((resolve) => setTimeout(resolve, 300));
      assert.deepEqual(recorder.events, []);
    } finally {
      await watch.close();
      await attached.detach();
      pod.close();
    }
  });
}
