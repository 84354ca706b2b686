// Stands for a shim whose wiring the kernel is long about: slow-wiring.ts NETNS. One datagram with changes that each wait
// for a grace period, and the ingress qdisc of eth0 as the last.
import {
  addIngressQdisc,
  addMacvtap,
  deleteLink,
  NetlinkProtocol,
  NetlinkSocket,
} from "../../../src/netlink/index.ts";
import { openNetns } from "../../../src/resources/net/netns.ts";

const SLOW_CHANGES = 30;
const ETH0 = 2;
const link = { lowerIndex: ETH0, mac: "02:ca:15:50:00:66", mtu: 1500, queues: 1 };
/** There from the first change to the last but one. */
const begun = { ...link, name: "begun0", index: 900 };
const slow = { ...link, name: "slow0", index: 901, mac: "02:ca:15:50:00:67" };

const netns = openNetns(process.argv[2] ?? "");
const socket = await NetlinkSocket.open(netns.fd, NetlinkProtocol.Route);
const changes = Array.from({ length: SLOW_CHANGES }, () => [addMacvtap(slow), deleteLink(slow.index)]);
await socket.exchange([
  addMacvtap(begun),
  ...changes.flat(),
  deleteLink(begun.index),
  addIngressQdisc(ETH0, "ingress", "eth0"),
]);
