/**
 * Requests byte for byte. The groups are 32-bit words as they are in memory, checked field by field against the
 * kernel's headers (linux/rtnetlink.h, if_link.h, pkt_cls.h, tc_act/tc_mirred.h, fib_rules.h, nf_tables.h).
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as netlink from "../../../src/netlink/index.ts";
import { encodeBatch } from "../../../src/netlink/message.ts";
import { encodeNftBatch } from "../../../src/netlink/nftables.ts";

const words = (bytes: Uint8Array) =>
  Buffer.from(bytes)
    .toString("hex")
    .replace(/(.{8})(?=.)/g, "$1 ");

const CREATE = 0x600; // NLM_F_CREATE | NLM_F_EXCL
const REPLACE = 0x500; // NLM_F_CREATE | NLM_F_REPLACE

function assertRequest(
  request: netlink.NetlinkRequest,
  type: number,
  flags: number,
  ...expected: string[]
): void {
  assert.equal(request.type, type);
  assert.equal(request.flags, flags);
  assert.equal(words(request.payload), expected.join(" "));
}

const tap = { index: 3, preference: 0xc000, protocol: netlink.ETH_P_ALL };
const route: netlink.Route = {
  family: netlink.AF_INET,
  destination: "",
  gateway: "",
  index: 0,
  source: "",
  scope: netlink.RouteScope.Universe,
  type: netlink.RouteType.Unicast,
  table: netlink.RouteTable.Main,
  protocol: netlink.RouteProtocol.Static,
  metric: 0,
  onlink: false,
  mtu: 0,
  cloned: false,
  nextHops: [],
};

test("the ingress qdisc", () => {
  assertRequest(
    netlink.addIngressQdisc(3, "ingress", "tap0"),
    36,
    CREATE,
    "00000000 03000000 0000ffff f1ffffff 00000000", // tcmsg: ifindex 3, handle ffff:, parent ffff:fff1
    "0c000100 696e6772 65737300", // TCA_KIND "ingress"
  );
});

test("the root qdisc noqueue", () => {
  assertRequest(
    netlink.setRootQdisc(3, "noqueue", "tap0"),
    36,
    REPLACE,
    "00000000 03000000 00000000 ffffffff 00000000",
    "0c000100 6e6f7175 65756500",
  );
});

test("the u32 filter that redirects everything", () => {
  const mirred = { eaction: netlink.MirredAction.EgressRedirect, action: netlink.TcAction.Stolen, index: 2 };
  const address = { ...tap, parent: netlink.TC_INGRESS_HANDLE, handle: 0 };
  assertRequest(
    netlink.newFilter(address, "u32", netlink.encodeU32(netlink.U32_MATCH_ALL, mirred), CREATE, "tap0"),
    44,
    CREATE,
    "00000000 03000000 00000000 0000ffff 000300c0", // parent ffff:, pref 49152 and protocol all
    "08000100 75333200", // TCA_KIND "u32"
    "60000200", // TCA_OPTIONS
    "24000500 01000100 00000000 00000000 00000000", // TCA_U32_SEL: terminal, one key
    "00000000 00000000 00000000 00000000", // mask 0, value 0, offset 0
    "38000700 34000100 0b000100 6d697272 65640000", // TCA_U32_ACT, slot 1, TCA_ACT_KIND "mirred"
    "24000200 20000200 00000000 00000000 04000000", // TCA_ACT_OPTIONS, TCA_MIRRED_PARMS: action stolen
    "00000000 00000000 01000000 02000000", // egress redirect to ifindex 2
  );
});

test("the direct-action bpf filter", () => {
  const address = { ...tap, parent: netlink.TC_CLSACT_IN, handle: 1 };
  assertRequest(
    netlink.newFilter(address, "bpf", netlink.encodeBpfDirectAction(9, "caisson_2"), CREATE, "tap0"),
    44,
    CREATE,
    "00000000 03000000 01000000 f2ffffff 000300c0",
    "08000100 62706600",
    "24000200 08000600 09000000", // TCA_BPF_FD 9
    "0e000700 63616973 736f6e5f 32000000", // TCA_BPF_NAME
    "08000800 01000000", // TCA_BPF_FLAG_ACT_DIRECT
  );
});

test("removing all filters of one preference", () => {
  const address = { ...tap, parent: netlink.TC_INGRESS_HANDLE, handle: 0 };
  assertRequest(
    netlink.deleteFilter(address, "u32", "tap0"),
    45,
    0,
    "00000000 03000000 00000000 0000ffff 000300c0",
    "08000100 75333200",
  );
});

test("a link brought up with an MTU", () => {
  assertRequest(
    netlink.setLink(3, { up: true, mtu: 1400 }),
    16,
    0,
    "00000000 03000000 01000000 01000000", // ifinfomsg: IFF_UP in flags and change mask
    "08000400 78050000",
  );
});

test("a macvtap in bridge mode with an index of ours", () => {
  assertRequest(
    netlink.addMacvtap({
      name: "tap0_caisson",
      index: 9000,
      lowerIndex: 2,
      mac: "02:00:00:00:00:05",
      mtu: 1500,
      queues: 2,
    }),
    16,
    CREATE,
    "00000000 28230000 00000000 00000000",
    "11000300 74617030 5f636169 73736f6e 00000000", // IFLA_IFNAME
    "08000500 02000000", // IFLA_LINK
    "0a000100 02000000 00050000", // IFLA_ADDRESS
    "08000400 dc050000", // IFLA_MTU
    "08001f00 02000000 08002000 02000000", // IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES
    "1c001280 0c000100 6d616376 74617000", // IFLA_LINKINFO, IFLA_INFO_KIND "macvtap"
    "0c000280 08000100 04000000", // IFLA_INFO_DATA, IFLA_MACVLAN_MODE bridge
  );
});

test("a veth pair with its peer in another namespace", () => {
  assertRequest(
    netlink.addVeth("a", "b", 7),
    16,
    CREATE,
    "00000000 00000000 00000000 00000000 06000300 61000000",
    "38001280 09000100 76657468 00000000", // IFLA_LINKINFO, "veth"
    "28000280 24000100 00000000 00000000 00000000 00000000", // IFLA_INFO_DATA, VETH_INFO_PEER, ifinfomsg
    "06000300 62000000 08001c00 07000000", // IFLA_IFNAME, IFLA_NET_NS_FD
  );
});

test("addresses with broadcast, and without duplicate detection", () => {
  assertRequest(
    netlink.addAddress(2, "10.0.0.5/24", { broadcast: "10.0.0.255" }),
    20,
    CREATE,
    "02180000 02000000 08000200 0a000005 08000100 0a000005 08000400 0a0000ff",
  );
  assertRequest(
    netlink.addAddress(2, "fd00::5/64", { flags: netlink.IfaFlag.NoDad }),
    20,
    CREATE,
    "0a400000 02000000 14000200 fd000000 00000000 00000000 00000005",
    "14000100 fd000000 00000000 00000000 00000005 08000800 02000000",
  );
});

test("routes: default, multipath, and one with everything over an IPv6 gateway", () => {
  assertRequest(
    netlink.addRoute({ ...route, gateway: "10.0.0.1", index: 2 }),
    24,
    CREATE,
    "02000000 fe040001 00000000 08000f00 fe000000 08000500 0a000001 08000400 02000000",
  );
  const hops = [
    { gateway: "10.0.0.2", index: 2, weight: 2, onlink: false },
    { gateway: "10.0.0.3", index: 2, weight: 1, onlink: true },
  ];
  assertRequest(
    netlink.addRoute({ ...route, destination: "10.7.0.0/16", nextHops: hops }),
    24,
    CREATE,
    "02100000 fe040001 00000000 08000100 0a070000 08000f00 fe000000",
    "24000900 10000001 02000000 08000500 0a000002", // rtnexthop: length 16, hops = weight - 1
    "10000400 02000000 08000500 0a000003", // RTNH_F_ONLINK
  );
  assertRequest(
    netlink.addRoute({
      ...route,
      destination: "10.6.0.0/24",
      gateway: "fe80::1",
      index: 2,
      source: "10.0.0.5",
      metric: 50,
      mtu: 1300,
      table: 1000,
      onlink: true,
    }),
    24,
    CREATE,
    "02180000 00040001 04000000 08000100 0a060000 08000f00 e8030000", // table above 255: only in RTA_TABLE
    "16001200 0a00fe80 00000000 00000000 00000000 00010000", // RTA_VIA: family 10, address
    "08000400 02000000 08000600 32000000 08000700 0a000005",
    "0c000800 08000200 14050000", // RTA_METRICS, RTAX_MTU 1300
  );
});

test("a static neighbour", () => {
  const entry = {
    index: 2,
    address: "10.0.0.9",
    mac: "02:00:00:00:00:09",
    state: netlink.Nud.Permanent,
    flags: 0,
  };
  assertRequest(
    netlink.setNeighbour(entry),
    28,
    REPLACE,
    "02000000 02000000 80000000 08000100 0a000009 0a000200 02000000 00090000",
  );
});

test("a routing rule", () => {
  assertRequest(
    netlink.addRule({
      family: netlink.AF_INET,
      priority: 100,
      from: "10.0.0.0/24",
      to: "",
      inInterface: "",
      outInterface: "",
      mark: 5,
      markMask: 255,
      action: netlink.FR_ACT_TO_TABLE,
      table: 1000,
    }),
    32,
    CREATE,
    "02001800 00000001 00000000 08000200 0a000000",
    "08000600 64000000 08000f00 e8030000 08000a00 05000000 08001000 ff000000",
  );
});

test("a routing rule as another kernel listed it, without that kernel's own flags", () => {
  // AF_INET, from /24, table 100; FIB_RULE_PERMANENT | FIB_RULE_INVERT | FIB_RULE_IIF_DETACHED; FRA_SRC, FRA_PRIORITY.
  const listed = "02001800 64000001 0b000000 08000200 0a000000 08000600 6f000000";
  const wanted = "02001800 64000001 02000000 08000200 0a000000 08000600 6f000000";
  const rule = netlink.portableRule(Uint8Array.from(Buffer.from(listed.replaceAll(" ", ""), "hex")));
  assertRequest(netlink.insertRule(rule), 32, CREATE, wanted);
  assertRequest(netlink.removeRule(rule), 33, 0, wanted);
});

test("the rules that each kernel makes, and a VRF's, are told from others", () => {
  const rule = (priority: number, table: number, from = "") =>
    netlink.addRule({
      family: netlink.AF_INET,
      ...{ priority, table, from, to: "", inInterface: "", outInterface: "", mark: 0, markMask: 0 },
      action: netlink.FR_ACT_TO_TABLE,
    }).payload;
  const vrf = Uint8Array.of(...rule(1000, 0), 5, 0, 19, 0, 1, 0, 0, 0);
  const made = [rule(0, 255), rule(32_766, 254), rule(32_767, 253), vrf].map(netlink.isKernelRule);
  assert.deepEqual(made, [true, true, true, true]);
  const others = [rule(0, 254), rule(100, 255), rule(32_766, 254, "10.0.0.0/8")].map(netlink.isKernelRule);
  assert.deepEqual(others, [false, false, false]);
});

test("a guard chain", () => {
  assertRequest(
    netlink.addNetdevChain({ table: "t", name: "c", device: "eth0", hook: 1, priority: 1000, policy: 0 }),
    0x0a03,
    0x400,
    "05000000 06000100 74000000 06000300 63000000", // nfgenmsg netdev, table, name
    "20000480 08000100 00000001 08000200 000003e8 09000300 65746830 00000000", // hook: egress, priority, device
    "08000500 00000000 0b000700 66696c74 65720000", // policy drop, type "filter"
    "1c000880 0c000100 00000000 00000000 0c000200 00000000 00000000", // counters
  );
});

test("an nf_tables batch is framed by begin and end, which ask for no acknowledgement", () => {
  assert.equal(
    words(encodeNftBatch([netlink.addTable(netlink.NFPROTO_NETDEV, "t")], 7)),
    [
      "14000000 10000100 08000000 00000000 0000000a", // NFNL_MSG_BATCH_BEGIN, subsystem 10 in network order
      "1c000000 000a0504 07000000 00000000 05000000 06000100 74000000",
      "14000000 11000100 09000000 00000000 0000000a",
    ].join(" "),
  );
});

test("a batch numbers its requests and asks for acknowledgements", () => {
  const bytes = encodeBatch([netlink.deleteLink(3), netlink.dumpLinks()], 0xffffffff);
  assert.equal(
    words(bytes),
    [
      "20000000 11000500 ffffffff 00000000 00000000 03000000 00000000 00000000",
      "20000000 12000503 00000000 00000000 00000000 00000000 00000000 00000000",
    ].join(" "),
  );
});
