/** Datagrams of the kernel about a small network in a namespace of its own. */
import { runInNetns } from "../../../src/native/net.ts";
import {
  addNetdevChain,
  addTable,
  dumpAddresses,
  dumpChains,
  dumpFilters,
  dumpLinks,
  dumpNeighbours,
  dumpQdiscs,
  dumpRoutes,
  dumpRules,
  getLink,
  NetlinkProtocol,
  type NetlinkRequest,
  NFPROTO_NETDEV,
  nftBatch,
  TC_INGRESS_HANDLE,
} from "../../../src/netlink/index.ts";
import { encodeBatch } from "../../../src/netlink/message.ts";
import { openSocketOperations } from "../../../src/netlink/socket.ts";
import { openNetns } from "../../../src/resources/net/netns.ts";
import { runOk } from "../../harness/run.ts";
import { createWorld } from "../../harness/world.ts";
import type { Save } from "./main.ts";

const script = `
ip link add veth0 address 02:00:00:00:00:01 type veth peer name veth1 address 02:00:00:00:00:02
ip link set veth0 up; ip link set veth1 up
ip address add 10.1.2.3/24 broadcast + dev veth0
ip address add 10.9.0.1 peer 10.9.0.2/32 dev veth1
ip -6 address add fd00::3/64 dev veth0 nodad
ip route add default via 10.1.2.1 dev veth0 metric 50
ip route add 192.0.2.0/24 nexthop via 10.1.2.1 weight 2 nexthop via 10.1.2.2 weight 1
ip route add 198.51.100.0/24 via inet6 fd00::1 dev veth0 mtu lock 1400
ip neighbour add 10.1.2.1 lladdr 02:00:00:00:00:09 dev veth0
ip rule add from 10.1.2.0/24 iif veth0 fwmark 1/3 table 100
tc qdisc add dev veth0 ingress
tc filter add dev veth0 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev veth1
`;

export async function recordKernel(save: Save): Promise<void> {
  await using world = await createWorld();
  await runOk(world.enter(["sh", "-ec", script]));
  const init = Number(/\/proc\/(\d+)\//.exec(world.outside("/"))?.[1]);
  const netns = openNetns(`/proc/${init}/ns/net`);
  try {
    const index = Number(
      /^(\d+): veth0@/m.exec((await runOk(world.enter(["ip", "-o", "link"]))).stdout)?.[1],
    );
    const ask = async (protocol: number, name: string, request: NetlinkRequest) => {
      const open = openSocketOperations(protocol, 0);
      const results = await runInNetns(netns.fd, [
        ...open,
        { do: "exchange", fd: { of: 0 }, data: encodeBatch([request], 1), optional: true },
        { do: "close", fd: { of: 0 } },
      ]);
      // The answer and its end in one, as one read gives them when they are short.
      const datagrams = results[open.length]?.datagrams ?? [];
      save("netlink", name, Buffer.concat(datagrams).subarray(0, 6000));
    };
    const route = NetlinkProtocol.Route;
    await ask(route, "links", dumpLinks());
    await ask(route, "addresses", dumpAddresses());
    await ask(route, "routes", dumpRoutes());
    await ask(route, "neighbours", dumpNeighbours());
    await ask(route, "rules", dumpRules());
    await ask(route, "qdiscs", dumpQdiscs());
    await ask(route, "filters", dumpFilters(index, TC_INGRESS_HANDLE));
    await ask(route, "refusal-no-such-link", getLink("nosuch0"));
    const chain = { table: "caisson", name: "guard", device: "veth0", hook: 0, priority: -1, policy: 0 };
    await nftBatch(netns.fd, [addTable(NFPROTO_NETDEV, "caisson"), addNetdevChain(chain)]);
    await ask(NetlinkProtocol.Netfilter, "chains", dumpChains(NFPROTO_NETDEV));
  } finally {
    netns.close();
  }
}
