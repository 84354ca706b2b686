import assert from "node:assert/strict";
import { test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { planRemovals } from "../../../guest-agent/src/net/removals.ts";
import { socketAddress } from "../../../guest-agent/src/net/socket-address.ts";
import { ApplyNetworkRequestSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import type { Link } from "../../../src/netlink/link.ts";

const request = (init: MessageInitShape<typeof ApplyNetworkRequestSchema>) =>
  create(ApplyNetworkRequestSchema, init);

const link = (index: number, name: string, mac: string): Link => ({
  index,
  name,
  mac,
  flags: 1,
  mtu: 1500,
  type: 1,
  kind: "",
  parentIndex: 0,
  masterIndex: 0,
  qdisc: "",
  txQueueLength: 1000,
  carrier: true,
  gsoMaxSize: 65536,
  stats: undefined,
});

const eth0 = { name: "eth0", mac: "02:00:00:00:00:01", mtu: 1500, addresses: ["10.0.0.5/24", "fd00::5/64"] };
const eth1 = { name: "eth1", mac: "02:00:00:00:00:02", mtu: 1500, addresses: ["10.1.0.5/24"] };
const links = [link(2, "eth0", eth0.mac), link(3, "eth1", eth1.mac)];
const onLink = { destination: "10.0.0.0/24", device: "eth0", scope: 253, family: 2 };
const viaGateway = { destination: "", gateway: "10.0.0.1", device: "eth0", family: 2 };
const neighbour = { address: "10.0.0.1", mac: "02:00:00:00:00:ff", device: "eth0", state: 0x80 };

const wanted = {
  interfaces: [eth0, eth1],
  routes: [onLink, viaGateway, { destination: "10.1.0.0/24", device: "eth1", scope: 253, family: 2 }],
  neighbours: [neighbour],
  // struct fib_rule_hdr: AF_INET, FR_ACT_TO_TBL; FRA_PRIORITY 111.
  rules: [Uint8Array.from(Buffer.from("020000000000000100000000" + "080006006f000000", "hex"))],
};
const last = request(wanted);

const whats = (next: ReturnType<typeof request>, present = links) =>
  planRemovals(last, next, present).map(({ what }) => what);

test("planRemovals() removes nothing when the request is repeated", () => {
  assert.deepEqual(whats(last), []);
});

test("planRemovals() removes rules, then routes, those through a gateway first, then neighbours, then addresses", () => {
  const next = request({
    interfaces: [{ ...eth0, addresses: ["fd00::5/64"] }, eth1],
    routes: wanted.routes.slice(2),
  });
  assert.deepEqual(whats(next), [
    "removing the routing rule 111",
    "removing the route to default",
    "removing the route to 10.0.0.0/24",
    "removing the neighbour 10.0.0.1",
    "removing the address 10.0.0.5/24",
  ]);
});

test("planRemovals() replaces a route that changed", () => {
  const next = request({
    ...wanted,
    routes: [onLink, { ...viaGateway, metric: 5 }, ...wanted.routes.slice(2)],
  });
  assert.deepEqual(whats(next), ["removing the route to default"]);
});

test("planRemovals() strips an interface that is no longer the pod's and takes it down", () => {
  const next = request({ ...wanted, interfaces: [eth0], routes: wanted.routes.slice(0, 2) });
  assert.deepEqual(whats(next), [
    "removing the route to 10.1.0.0/24",
    "removing the address 10.1.0.5/24",
    "configuring eth1",
  ]);
});

test("planRemovals() asks for nothing about an interface that was unplugged", () => {
  const next = request({ ...wanted, interfaces: [eth0], routes: wanted.routes.slice(0, 2) });
  assert.deepEqual(whats(next, links.slice(0, 1)), []);
});

test("socketAddress() gives the kernel's structures", () => {
  const hex = ({ bytes }: { bytes: Uint8Array }) => Buffer.from(bytes).toString("hex");
  assert.equal(hex(socketAddress("127.0.0.1", 8080)), `02001f907f000001${"0".repeat(16)}`);
  assert.equal(hex(socketAddress("::1", 443)), `0a0001bb00000000${"0".repeat(30)}0100000000`);
  assert.throws(() => socketAddress("localhost", 80));
  assert.throws(() => socketAddress("::1", 65536), /65536 is not a TCP port/);
});
