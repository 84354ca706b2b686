/** What the kernel reports, parsed: what we send is read back, and cut or random payloads do no harm. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as netlink from "../../../src/netlink/index.ts";

const parsers = [
  netlink.parseLink,
  netlink.parseAddress,
  netlink.parseRoute,
  netlink.parseNeighbour,
  netlink.parseRule,
  netlink.parseQdisc,
  netlink.parseFilter,
  netlink.parseChain,
] as const;

test("a route with everything is read as it was written", () => {
  const route: netlink.Route = {
    family: netlink.AF_INET6,
    destination: "fd00:1::/64",
    gateway: "fe80::1",
    index: 4,
    source: "fd00::5",
    scope: 253,
    type: 1,
    table: 1000,
    protocol: 4,
    metric: 77,
    onlink: true,
    mtu: 1280,
    cloned: false,
    nextHops: [],
  };
  assert.deepEqual(netlink.parseRoute(netlink.addRoute(route).payload), route);
  const multipath = {
    ...route,
    gateway: "",
    index: 0,
    nextHops: [
      { gateway: "fe80::1", index: 4, weight: 256, onlink: true },
      { gateway: "", index: 5, weight: 1, onlink: false },
    ],
  };
  assert.deepEqual(netlink.parseRoute(netlink.addRoute(multipath).payload), multipath);
});

test("an IPv4 route over an IPv6 gateway keeps it", () => {
  const route = netlink.parseRoute(
    netlink.addRoute({
      family: netlink.AF_INET,
      destination: "10.0.0.0/8",
      gateway: "fe80::1",
      index: 4,
      source: "",
      scope: 0,
      type: 1,
      table: 254,
      protocol: 4,
      metric: 0,
      onlink: false,
      mtu: 0,
      cloned: false,
      nextHops: [],
    }).payload,
  );
  assert.equal(route.gateway, "fe80::1");
});

test("a point-to-point address has its own address and its peer", () => {
  const { payload } = netlink.addAddress(3, "10.0.0.5/32", { peer: "10.0.0.1/24", scope: 253 });
  const { address, peer, scope } = netlink.parseAddress(payload);
  assert.deepEqual({ address, peer, scope }, { address: "10.0.0.5/32", peer: "10.0.0.1/24", scope: 253 });
});

test("neighbours and rules are read as they were written", () => {
  const neighbour = {
    family: 10,
    index: 3,
    address: "fd00::9",
    mac: "02:00:00:00:00:09",
    state: 0x80,
    flags: 0x80,
  };
  assert.deepEqual(netlink.parseNeighbour(netlink.setNeighbour(neighbour).payload), neighbour);
  const rule = {
    family: 10,
    priority: 9,
    from: "fd00::/64",
    to: "fd01::/16",
    inInterface: "eth0",
    outInterface: "eth1",
    mark: 1,
    markMask: 0xff,
    action: 1,
    table: 254,
  };
  assert.deepEqual(netlink.parseRule(netlink.addRule(rule).payload), rule);
});

test("filters are read with their keys, actions and programs", () => {
  const mirred = { eaction: netlink.MirredAction.EgressMirror, action: netlink.TcAction.Pipe, index: 9 };
  const keys = [
    { value: 0x0a000000, mask: 0xff000000, offset: 12 },
    { value: 0xffff, mask: 0xffff, offset: -16 },
  ];
  const address = { index: 3, parent: netlink.TC_CLSACT_OUT, handle: 7, preference: 5, protocol: 0x0800 };
  const u32 = netlink.parseFilter(
    netlink.newFilter(address, "u32", netlink.encodeU32(keys, mirred), 0, "x").payload,
  );
  const { options, ...head } = u32;
  assert.deepEqual(head, { ...address, kind: "u32", chain: 0 });
  assert.deepEqual(netlink.parseU32(options), {
    keys,
    actions: [{ kind: "mirred", mirred, stats: undefined }],
  });
  const bpf = netlink.parseFilter(
    netlink.newFilter(address, "bpf", netlink.encodeBpfDirectAction(4, "caisson_2"), 0, "x").payload,
  );
  assert.deepEqual(netlink.parseBpf(bpf.options), { name: "caisson_2", programId: 0, directAction: true });
});

test("a chain is read with hook, device and policy", () => {
  const chain = { table: "t", name: "c", device: "eth0", hook: 1, priority: -5, policy: 0 };
  assert.deepEqual(netlink.parseChain(netlink.addNetdevChain(chain).payload), {
    family: netlink.NFPROTO_NETDEV,
    table: "t",
    name: "c",
    device: "eth0",
    hook: 1,
    policy: 0,
    packets: 0,
    bytes: 0,
  });
});

test("cut attributes and random payloads are parsed without a fault", () => {
  const { payload } = netlink.addMacvtap({
    name: "tap0_caisson",
    index: 9000,
    lowerIndex: 2,
    mac: "02:00:00:00:00:05",
    mtu: 1500,
    queues: 2,
  });
  for (const parse of parsers) {
    for (let length = 20; length <= payload.length; length++) parse(payload.subarray(0, length));
    for (let i = 0; i < 300; i++) {
      parse(Uint8Array.from({ length: 20 + (i % 150) }, () => Math.floor(Math.random() * 256)));
    }
  }
});
