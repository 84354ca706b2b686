import assert from "node:assert/strict";
import { test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { missingInterfaces, planNetwork } from "../../../guest-agent/src/net/plan.ts";
import { ApplyNetworkRequestSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { Iff, type Link } from "../../../src/netlink/link.ts";
import { encodeBatch } from "../../../src/netlink/message.ts";

const request = (init: MessageInitShape<typeof ApplyNetworkRequestSchema>) =>
  create(ApplyNetworkRequestSchema, init);

function link(index: number, name: string, mac: string, flags = 0, mtu = 1500): Link {
  return {
    index,
    name,
    mac,
    flags,
    mtu,
    type: 1,
    kind: "",
    parentIndex: 0,
    masterIndex: 0,
    qdisc: "",
    txQueueLength: 1000,
    carrier: true,
    gsoMaxSize: 65536,
    stats: undefined,
  };
}

const lo = link(1, "lo", "00:00:00:00:00:00", Iff.Loopback);
const nic = link(2, "eth0", "02:00:00:00:00:01");
const pod = { name: "eth0", mac: "02:00:00:00:00:01", mtu: 1450, addresses: ["10.88.0.5/16", "fd00::5/64"] };

const whats = (plan: ReturnType<typeof planNetwork>) => plan.map(({ what }) => what);

test("planNetwork() brings up loopback, sets the interface, then addresses, routes, neighbours and rules", () => {
  const plan = planNetwork(
    request({
      interfaces: [pod],
      routes: [
        { gateway: "10.88.0.1", device: "eth0", family: 2 },
        { destination: "10.88.0.0/16", device: "eth0", scope: 253, source: "10.88.0.5" },
      ],
      neighbours: [{ address: "10.88.0.1", mac: "02:00:00:00:00:ff", device: "eth0" }],
      rules: [Uint8Array.from(Buffer.from("020000000000000100000000" + "080006006f000000", "hex"))],
    }),
    [lo, nic],
  );
  assert.deepEqual(whats(plan), [
    "configuring lo",
    "configuring eth0",
    "configuring eth0",
    "adding the address 10.88.0.5/16",
    "adding the address fd00::5/64",
    // The one on the link first: the gateway is reached through it.
    "adding the route to 10.88.0.0/16",
    "adding the route to default",
    "adding the neighbour 10.88.0.1",
    "adding the routing rule 111",
  ]);
});

test("planNetwork() sends these bytes", () => {
  const plan = planNetwork(
    request({
      interfaces: [{ ...pod, mtu: 0, addresses: ["fd00::5/64"] }],
      routes: [{ gateway: "fd00::1", device: "eth0", metric: 1024, family: 10 }],
    }),
    [{ ...lo, flags: Iff.Loopback | Iff.Up }, nic],
  );
  const expected = [
    // nlmsghdr: 32 bytes, RTM_NEWLINK, REQUEST | ACK, sequence 1; ifinfomsg: index 2, flags and change IFF_UP
    "20000000 1000 0500 01000000 00000000",
    "00 00 0000 02000000 01000000 01000000",
    // nlmsghdr: 72 bytes, RTM_NEWADDR, with CREATE | EXCL; ifaddrmsg: AF_INET6, /64, index 2
    "48000000 1400 0506 02000000 00000000",
    "0a 40 00 00 02000000",
    // IFA_LOCAL and IFA_ADDRESS fd00::5, IFA_FLAGS IFA_F_NODAD | IFA_F_NOPREFIXROUTE
    "1400 0200 fd000000 00000000 00000000 00000005",
    "1400 0100 fd000000 00000000 00000000 00000005",
    "0800 0800 02020000",
    // nlmsghdr: 72 bytes, RTM_NEWROUTE; rtmsg: AF_INET6, /0, table main, RTPROT_STATIC, universe, unicast
    "48000000 1800 0506 03000000 00000000",
    "0a 00 00 00 fe 04 00 01 00000000",
    // RTA_TABLE main, RTA_GATEWAY fd00::1, RTA_OIF 2, RTA_PRIORITY 1024
    "0800 0f00 fe000000",
    "1400 0500 fd000000 00000000 00000000 00000001",
    "0800 0400 02000000",
    "0800 0600 00040000",
  ];
  assert.equal(Buffer.from(encodeBatch(plan, 1)).toString("hex"), expected.join("").replaceAll(" ", ""));
});

test("planNetwork() takes down, renames and brings up an interface that has another name", () => {
  const plan = planNetwork(request({ interfaces: [{ name: "net1", mac: nic.mac }] }), [
    { ...nic, flags: Iff.Up },
  ]);
  assert.deepEqual(whats(plan), ["configuring eth0", "configuring net1", "configuring net1"]);
});

test("planNetwork() leaves name and MTU alone where they are right", () => {
  const plan = planNetwork(request({ interfaces: [{ ...pod, mtu: 1500, addresses: [] }] }), [nic]);
  assert.deepEqual(whats(plan), ["configuring eth0"]);
});

test("planNetwork() moves aside an interface whose name another is to get", () => {
  const other = link(3, "eth1", "02:00:00:00:00:02");
  const plan = planNetwork(
    request({
      interfaces: [
        { name: "eth1", mac: nic.mac },
        { name: "eth0", mac: other.mac },
      ],
    }),
    [nic, other],
  );
  const names = plan.map(
    ({ payload }) => /(moved\d|eth\d)/.exec(Buffer.from(payload).toString("latin1"))?.[0],
  );
  assert.deepEqual(
    names.filter((name) => name !== undefined),
    ["moved3", "moved2", "eth1", "eth0"],
  );
});

test("planNetwork() names the interface that is missing, and the device that a route wants", () => {
  const unknown = request({ interfaces: [{ name: "eth0", mac: "02:00:00:00:00:09" }] });
  assert.deepEqual(missingInterfaces(unknown, [lo, nic]), ["02:00:00:00:00:09"]);
  assert.throws(() => planNetwork(unknown, [lo, nic]), /02:00:00:00:00:09/);
  const route = request({ routes: [{ destination: "10.0.0.0/8", device: "eth7" }] });
  assert.throws(() => planNetwork(route, [lo, nic]), /eth7/);
});

test("missingInterfaces() matches MAC addresses whatever their case, and never loopback", () => {
  assert.deepEqual(
    missingInterfaces(request({ interfaces: [{ mac: "02:00:00:00:00:01".toUpperCase() }] }), [nic]),
    [],
  );
  assert.deepEqual(missingInterfaces(request({ interfaces: [{ mac: lo.mac }] }), [lo]), [lo.mac]);
});

test("planNetwork() refuses an address that is none", () => {
  const bad = request({ interfaces: [{ ...pod, addresses: ["10.0.0.300/8"] }] });
  assert.throws(() => planNetwork(bad, [nic]), /10\.0\.0\.300/);
});
