/** attachPodNetwork(): what it refuses, adapts to and leaves alone. */
import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import { closeFd } from "../../../src/native/fd.ts";
import { runInNetns } from "../../../src/native/net.ts";
import {
  dumpRules,
  insertRule,
  NetlinkError,
  NetlinkProtocol,
  NetlinkSocket,
  removeRule,
} from "../../../src/netlink/index.ts";
import { executePlan, StepError } from "../../../src/resources/net/execute.ts";
import { MAX_QUEUES, readPodNetwork } from "../../../src/resources/net/index.ts";
import { framesTowards } from "./frames.ts";
import { MODELS, makePod, POD_MAC, recordingLog, shell, snapshot } from "./pod-fixture.ts";

const ROUTES = `
ip route add 169.254.1.1 dev eth0 scope link
ip route add 10.66.0.0/24 via 10.88.0.1 mtu 1300 src 10.88.0.5 metric 50
ip route add 10.77.0.0/16 nexthop via 10.88.0.2 dev eth0 weight 2 nexthop via 203.0.113.9 dev eth0 weight 1 onlink
ip route add blackhole 10.99.0.0/24
ip route add 198.51.100.0/24 via 203.0.113.1 dev eth0 onlink table 100
ip -6 route add fd00:99::/64 via fe80::1 dev eth0 metric 300
ip rule add from 198.51.100.0/24 iif lo lookup 100 priority 50
ip rule add not to 10.0.0.0/8 fwmark 0x7/0xff ipproto udp dport 53 prohibit priority 60
ip rule add oif elsewhere lookup 100 priority 70
ip -6 rule add from fd00:88::5 iif eth0 lookup 100 suppress_prefixlength 0 priority 51
ip neigh add 10.88.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent
ip neigh add fd00:88::9 lladdr 02:00:00:00:00:0a dev eth0 nud permanent`;

/** A device that a namespace has not is marked "[detached]". */
const ruleLines = (text: string) => text.trim().replaceAll(" [detached]", "").split("\n");

export function attachSuite(): void {
  test("the guest gets addresses, routes (those of the prefixes as they are), rules and static neighbours", async () => {
    const pod = await makePod({ mtu: 1450 });
    try {
      await pod.inPod(ROUTES);
      const attached = await pod.attach({ model: "tcfilter" });
      const { interfaces, routes, neighbours } = attached.network.guest;
      assert.deepEqual(
        interfaces.map(({ name, mac, mtu, addresses }) => ({ name, mac, mtu, addresses })),
        [{ name: "eth0", mac: POD_MAC, mtu: 1450, addresses: ["10.88.0.5/16", "fd00:88::5/64"] }],
      );
      const text = routes.map((route) =>
        [
          route.type === 6 ? "blackhole" : "",
          route.destination === "" ? `default${route.family}` : route.destination,
          route.gateway && `via ${route.gateway}`,
          route.device && `dev ${route.device}`,
          route.table === 254 ? "" : `table ${route.table}`,
          route.scope === 0 ? "" : `scope ${route.scope}`,
          route.source && `src ${route.source}`,
          route.metric === 0 ? "" : `metric ${route.metric}`,
          route.mtu === 0 ? "" : `mtu ${route.mtu}`,
          route.onlink ? "onlink" : "",
          ...route.nextHops.map(
            (hop) => `nexthop ${hop.gateway} ${hop.device} ${hop.weight}${hop.onlink ? " onlink" : ""}`,
          ),
        ]
          .filter((part) => part !== "")
          .join(" "),
      );
      assert.deepEqual(text.sort(), [
        "10.66.0.0/24 via 10.88.0.1 dev eth0 src 10.88.0.5 metric 50 mtu 1300",
        "10.77.0.0/16 nexthop 10.88.0.2 eth0 2 nexthop 203.0.113.9 eth0 1 onlink",
        "10.88.0.0/16 dev eth0 scope 253 src 10.88.0.5",
        "169.254.1.1/32 dev eth0 scope 253",
        "198.51.100.0/24 via 203.0.113.1 dev eth0 table 100 onlink",
        "blackhole 10.99.0.0/24",
        "default10 via fd00:88::1 dev eth0 metric 1024",
        "default2 via 10.88.0.1 dev eth0",
        "fd00:88::/64 dev eth0 metric 256",
        "fd00:99::/64 via fe80::1 dev eth0 metric 300",
      ]);
      const firstGateway = routes.findIndex((route) => route.gateway !== "" || route.nextHops.length > 0);
      assert.ok(
        routes.slice(firstGateway).every((route) => route.gateway !== "" || route.nextHops.length > 0),
      );
      assert.deepEqual(
        neighbours.map((entry) => `${entry.address} ${entry.mac} ${entry.device} ${entry.state}`).sort(),
        ["10.88.0.9 02:00:00:00:00:09 eth0 128", "fd00:88::9 02:00:00:00:00:0a eth0 128"],
      );
      // As another kernel takes them: in a namespace that has none of them.
      const [made] = await runInNetns(undefined, [{ do: "unshare-net" }]);
      const other = made?.fd ?? -1;
      const socket = await NetlinkSocket.open(other, NetlinkProtocol.Route);
      const own = await socket.dump(dumpRules());
      for (const rule of attached.network.guest.rules) await socket.request(insertRule(rule));
      const list = "ip rule; ip -6 rule";
      const [listed, expected] = [
        await shell(`/proc/${process.pid}/fd/${other}`, list),
        await pod.inPod(list),
      ];
      assert.deepEqual(
        ruleLines(listed),
        ruleLines(expected).filter((line) => !line.includes("elsewhere")),
      );
      for (const rule of attached.network.guest.rules) await socket.request(removeRule(rule));
      assert.equal((await socket.dump(dumpRules())).length, own.length);
      socket.close();
      closeFd(other);
      await attached.detach();
    } finally {
      pod.close();
    }
  });

  test("tap and pod interface have one MTU, the tap no IPv6 and no queueing, in each model", async () => {
    for (const model of MODELS) {
      const pod = await makePod({ mtu: 1400 });
      try {
        const attached = await pod.attach({ model, queues: 2 });
        const [nic] = attached.network.nics;
        assert.deepEqual(
          { ...nic, tapFds: nic?.tapFds.length },
          {
            ifname: "eth0",
            tapName: "tap0_caisson",
            mac: POD_MAC,
            mtu: 1400,
            tapFds: 2,
            vhostFds: [],
            queues: 2,
          },
        );
        const links = await pod.inPod(
          "ip -o link show; cat /proc/sys/net/ipv6/conf/tap0_caisson/disable_ipv6",
        );
        assert.match(links, /tap0_caisson(@eth0)?: <[^>]*UP[^>]*> mtu 1400/);
        assert.match(links, /^1$/m);
        if (model !== "macvtap") assert.match(links, /tap0_caisson: .* qdisc noqueue/);
        await attached.detach();
      } finally {
        pod.close();
      }
    }
  });

  test("a NIC has as many queues as wanted, up to eight", async () => {
    const pod = await makePod();
    try {
      for (const [wanted, got] of [
        [1, 1],
        [3, 3],
        [20, MAX_QUEUES],
      ] as const) {
        const attached = await pod.attach({ model: "tcfilter", queues: wanted });
        const [nic] = attached.network.nics;
        assert.deepEqual([nic?.queues, nic?.tapFds.length], [got, got]);
        assert.match(
          await pod.inPod("ip -d link show tap0_caisson"),
          new RegExp(`numtxqueues ${got > 1 ? 256 : 1} `),
        );
        await attached.detach();
      }
      assert.equal(MAX_QUEUES, 8);
    } finally {
      pod.close();
    }
  });

  test("several interfaces get a tap each, named in order", async () => {
    const pod = await makePod();
    try {
      await pod.inHost(`ip link add h1 type veth peer name net1 netns ${pod.netnsPath}; ip link set h1 up`);
      await pod.inPod(
        "ip link set net1 up; ip addr add 10.99.0.5/24 dev net1; ip link add dum0 type bridge; ip link set dum0 up",
      );
      const attached = await pod.attach({ model: "tcfilter" });
      const names = attached.network.nics.map((nic) => `${nic.ifname} ${nic.tapName}`);
      assert.deepEqual(names, ["eth0 tap0_caisson", "net1 tap1_caisson"]);
      assert.deepEqual(
        attached.network.guest.interfaces.map((entry) => entry.name),
        ["eth0", "net1"],
      );
      await attached.detach();
    } finally {
      pod.close();
    }
  });

  test("an empty namespace, and the model none, give no NIC", async () => {
    const pod = await makePod({ bare: true });
    try {
      await pod.inPod("ip link del eth0; ip link set lo up");
      const empty = await pod.attach({ model: "tcfilter" });
      assert.deepEqual([empty.network.nics, empty.records], [[], []]);
      await empty.detach();
    } finally {
      pod.close();
    }
    const full = await makePod();
    try {
      const none = await full.attach({ model: "none" });
      assert.deepEqual([none.network.nics, none.network.guest.interfaces, none.records], [[], [], []]);
      await none.detach();
    } finally {
      full.close();
    }
  });

  test("the host's namespace, a file that is none, and a missing one are refused by name", async () => {
    const pod = await makePod();
    const attach = (netnsPath: string) => pod.attach({ model: "tcfilter", netnsPath });
    try {
      await assert.rejects(attach("/proc/self/ns/net"), {
        code: "ERR_INVALID_ARGUMENT",
        message: /\/proc\/self\/ns\/net is the host's network namespace/,
      });
      await assert.rejects(attach("/etc/hostname"), {
        code: "ERR_INVALID_ARGUMENT",
        message: "/etc/hostname is not a network namespace",
      });
      await assert.rejects(attach("/run/netns/caisson-missing"), { code: "ERR_NOT_FOUND" });
    } finally {
      pod.close();
    }
  });

  test("a namespace that another microVM is attached to is refused, and stays as it was", async () => {
    const pod = await makePod();
    const first = await pod.attach({ model: "tcfilter" });
    try {
      await assert.rejects(pod.attach({ model: "ebpf" }), {
        code: "ERR_ALREADY_EXISTS",
        message: /tap0_caisson/,
      });
      const bytes = framesTowards("guest").get("unicast") ?? Buffer.alloc(0);
      pod.probe.send(bytes);
      assert.ok(await first.guest.next((frame) => frame.equals(bytes), 2_000));
    } finally {
      await first.detach();
      pod.close();
    }
  });

  for (const model of ["tcfilter", "ebpf"] as const) {
    for (const kind of ["ingress", "clsact"] as const) {
      test(`${model}: foreign filters in a ${kind} qdisc of eth0 run before ours and survive`, async () => {
        const pod = await makePod();
        try {
          const side = kind === "clsact" ? "ingress" : "parent ffff:";
          await pod.inPod(`tc qdisc add dev eth0 ${kind}
tc filter add dev eth0 ${side} pref 50000 protocol 0x88b6 u32 match u8 0 0 action mirred egress redirect dev lo`);
          const before = await snapshot(pod);
          const attached = await pod.attach({ model });
          const filters = await pod.inPod(`tc filter show dev eth0 ${side}`);
          assert.match(filters, /pref 50000 [\s\S]*pref 50001 /);
          const bytes = framesTowards("guest").get("unicast") ?? Buffer.alloc(0);
          const taken = Buffer.from(bytes);
          taken.writeUInt16BE(0x88b6, 12);
          pod.probe.send(taken);
          pod.probe.send(bytes);
          const arrived = await attached.guest.next(() => true, 2_000);
          assert.ok(arrived?.frame.equals(bytes), "the foreign filter took the first frame");
          await attached.detach();
          assert.equal(await snapshot(pod), before);
        } finally {
          pod.close();
        }
      });
    }
  }

  test("a model that the kernel refuses is replaced by the next, with a warning, and nothing of it is left", async () => {
    // As a kernel without cls_bpf, and then without cls_u32, answers; everything else is the real thing.
    const refuse =
      (...kinds: ("bpf" | "u32")[]): typeof executePlan =>
      (plan, ...rest) => {
        const isRefused = ({ action, name }: (typeof plan.steps)[number]) =>
          (kinds.includes("bpf") && action.do === "bpf-filter") ||
          (kinds.includes("u32") && action.do === "route" && name.startsWith("the redirect"));
        const at = plan.steps.findIndex(isRefused);
        if (at < 0) return executePlan(plan, ...rest);
        const step = plan.steps[at] as (typeof plan.steps)[number];
        return executePlan({ steps: plan.steps.slice(0, at) }, ...rest).then(({ tapFds }) => {
          for (const fd of [...tapFds.values()].flat()) closeFd(fd);
          throw new StepError(step, new NetlinkError("adding the filter", 2, "TC classifier not found"));
        });
      };
    for (const [wanted, refused, got] of [
      ["ebpf", refuse("bpf"), "tcfilter"],
      ["ebpf", refuse("bpf", "u32"), "macvtap"],
      ["tcfilter", refuse("u32"), "macvtap"],
    ] as const) {
      const pod = await makePod();
      try {
        const before = await snapshot(pod);
        const log = recordingLog();
        const attached = await pod.attach({ model: wanted, log }, refused);
        assert.equal(attached.network.model, got);
        assert.match(
          log.warnings[0] ?? "",
          new RegExp(`this kernel refuses the network model ${wanted}; using `),
        );
        for (const direction of ["guest", "host"] as const) {
          const bytes = framesTowards(direction).get("unicast") ?? Buffer.alloc(0);
          const [from, to] =
            direction === "guest" ? [pod.probe, attached.guest] : [attached.guest, pod.probe];
          from.send(bytes);
          assert.ok(await to.next((frame) => frame.equals(bytes), 2_000));
        }
        await attached.detach();
        assert.equal(await snapshot(pod), before);
      } finally {
        pod.close();
      }
    }
  });

  test("vhost auto gives one descriptor a queue, or one warning for all NICs where the host has no vhost-net", async () => {
    const pod = await makePod();
    try {
      const addNic = (name: string) =>
        pod.inHost(
          `ip link add h-${name} type veth peer name ${name} netns ${pod.netnsPath}; nsenter --net=${pod.netnsPath} ip link set ${name} up`,
        );
      await addNic("net1");
      const log = recordingLog();
      const attached = await pod.attach({ model: "tcfilter", queues: 2, vhost: "auto", log });
      await addNic("net2");
      const { links } = await readPodNetwork(pod.netnsPath);
      const later = links.find((link) => link.name === "net2") as (typeof links)[number];
      await attached.network.attachInterface(later, AbortSignal.timeout(5_000));
      const present = fs.existsSync("/dev/vhost-net");
      assert.deepEqual(
        attached.network.nics.map((nic) => nic.vhostFds.length),
        Array(3).fill(present ? 2 : 0),
      );
      assert.equal(log.warnings.filter((text) => text.includes("vhost-net")).length, present ? 0 : 1);
      await attached.detach();
      if (present) return;
      const before = await snapshot(pod);
      await assert.rejects(pod.attach({ model: "tcfilter", vhost: "on" }), {
        message: /load the module vhost_net/,
      });
      assert.equal(await snapshot(pod), before);
    } finally {
      pod.close();
    }
  });

  test("readPodNetwork() reads a namespace without changing it", async () => {
    const pod = await makePod();
    try {
      const before = await snapshot(pod);
      const state = await readPodNetwork(pod.netnsPath);
      assert.deepEqual(state.links.map((link) => link.name).sort(), ["eth0", "lo"]);
      assert.equal(await snapshot(pod), before);
    } finally {
      pod.close();
    }
  });
}
