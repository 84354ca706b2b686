import assert from "node:assert/strict";
import { test } from "node:test";
import { type Filter, type Link, parseFilter, parseU32, type Qdisc } from "../../../../src/netlink/index.ts";
import { type PlanStep, undoRecordOf } from "../../../../src/resources/net/plan.ts";
import { planMacvtap } from "../../../../src/resources/net/plan-macvtap.ts";
import { planRedirect } from "../../../../src/resources/net/plan-redirect.ts";
import { type PodState, podLinks } from "../../../../src/resources/net/pod-state.ts";

const eth0: Link = {
  index: 2,
  name: "eth0",
  type: 1,
  flags: 0x41,
  mtu: 1450,
  mac: "02:00:00:00:00:05",
  kind: "veth",
  parentIndex: 7,
  masterIndex: 0,
  qdisc: "noqueue",
  txQueueLength: 1000,
  carrier: true,
  gsoMaxSize: 65536,
  stats: undefined,
};
const tap = { name: "tap0_caisson", index: 3, queues: 2 };
const target = { link: eth0, tap, present: undefined, foreign: [] };
const state: PodState = { links: [eth0], addresses: [], routes: [], neighbours: [], qdiscs: [], rules: [] };
const netns = { path: "/run/netns/x", device: 4, inode: 99 };
const clsact: Qdisc = { index: 2, kind: "clsact", handle: 0xffff0000, parent: 0xfffffff1, stats: undefined };
const foreign = (preference: number): Filter => ({
  index: 2,
  parent: 0xfffffff2,
  handle: 1,
  preference,
  protocol: 3,
  kind: "bpf",
  chain: 0,
  options: new Map(),
});

const names = (steps: readonly PlanStep[]) => steps.map((step) => step.name);

test("the redirect is complete before anything is up, and the guest's direction comes first", () => {
  assert.deepEqual(names(planRedirect("tcfilter", [target]).steps), [
    "the tap tap0_caisson",
    "IPv6 off on tap0_caisson",
    "the guard chains",
    "no queueing on tap0_caisson",
    "tap0_caisson up",
    "the ingress qdisc of tap0_caisson",
    "the ingress qdisc of eth0",
    "the redirect of tap0_caisson",
    "the redirect of eth0",
  ]);
});

test("each filter leads to the other interface", () => {
  const leads = planRedirect("tcfilter", [target]).steps.flatMap(({ action }) => {
    if (action.do !== "route" || action.request.type !== 44) return [];
    const filter = parseFilter(action.request.payload);
    return [[filter.index, parseU32(filter.options).actions[0]?.mirred?.index]];
  });
  assert.deepEqual(leads, [
    [3, 2],
    [2, 3],
  ]);
});

test("the undo of a redirect names everything outside the tap itself, newest last, as JSON", () => {
  const record = undoRecordOf(planRedirect("ebpf", [target]), netns);
  assert.deepEqual(JSON.parse(JSON.stringify(record)), record);
  assert.deepEqual(record, {
    version: 1,
    netns,
    model: "ebpf",
    undo: [
      { undo: "link", index: 3, name: "tap0_caisson", kind: "tun" },
      { undo: "nft-table", name: "caisson_guard_tap0" },
      { undo: "qdisc", index: 2, kind: "clsact" },
      {
        undo: "filter",
        index: 2,
        parent: 0xfffffff2,
        preference: 65535,
        kind: "bpf",
        target: "caisson_guard",
      },
      { undo: "filter", index: 2, parent: 0xfffffff2, preference: 49152, kind: "bpf", target: "caisson_3" },
    ],
  });
});

test("with somebody's qdisc there, none is added or removed, and our filter goes behind theirs", () => {
  const plan = planRedirect("tcfilter", [
    { ...target, present: clsact, foreign: [foreign(10), foreign(50_000)] },
  ]);
  assert.ok(!names(plan.steps).includes("the ingress qdisc of eth0"));
  const { undo } = undoRecordOf(plan, netns);
  assert.ok(!undo.some((action) => action.undo === "qdisc"));
  const ours = undo.find((action) => action.undo === "filter" && action.kind === "u32");
  assert.deepEqual(ours, {
    undo: "filter",
    index: 2,
    parent: 0xfffffff2,
    preference: 50_001,
    kind: "u32",
    target: 3,
  });
});

test("a foreign filter at the last place is refused in a sentence", () => {
  assert.throws(
    () => planRedirect("tcfilter", [{ ...target, present: clsact, foreign: [foreign(65_535)] }]),
    {
      code: "ERR_EXHAUSTED",
      message: /eth0 has a tc filter of another owner at the last preference/,
    },
  );
});

test("macvtap journals what it takes away before it does so", () => {
  const full: PodState = {
    ...state,
    addresses: [
      {
        family: 2,
        index: 2,
        address: "10.0.0.5/24",
        peer: undefined,
        broadcast: "10.0.0.255",
        scope: 0,
        flags: 0x80,
      },
      {
        family: 10,
        index: 2,
        address: "fe80::5/64",
        peer: undefined,
        broadcast: undefined,
        scope: 253,
        flags: 0x80,
      },
    ],
  };
  const plan = planMacvtap(full, [{ link: eth0, tap: { ...tap, index: 9000 } }]);
  const { undo } = undoRecordOf(plan, netns);
  assert.deepEqual(
    undo.map((action) => action.undo),
    ["requests", "sysctl", "requests", "link"],
  );
  const [first] = undo;
  assert.deepEqual(first?.undo === "requests" && first.requests.map((request) => request.what), [
    "adding the address 10.0.0.5/24",
  ]);
});

test("only Ethernet links that are up and no plumbing are the pod's", () => {
  const link = (change: Partial<Link>): Link => ({ ...eth0, ...change });
  const links = [
    link({ index: 9, name: "net1", kind: "macvlan" }),
    eth0,
    link({ index: 1, name: "lo", type: 772 }),
    link({ index: 4, name: "down", flags: 0 }),
    link({ index: 5, name: "br0", kind: "bridge" }),
    link({ index: 6, name: "port", masterIndex: 5 }),
    link({ index: 7, name: "sit0", type: 776 }),
    link({ index: 8, name: "ifb0", kind: "ifb" }),
  ];
  assert.deepEqual(
    podLinks({ ...state, links }).map((entry) => entry.name),
    ["eth0", "net1"],
  );
});
