/** How a pod's network is wired, as the kernel reports it now: the data behind `shim net show`. */
import { runInNetns } from "../../native/net.ts";
import {
  type ChainInfo,
  dumpChains,
  dumpFilters,
  dumpNftRules,
  type Filter,
  type Link,
  type LinkStats,
  type NetlinkSocket,
  NFPROTO_UNSPEC,
  nftDump,
  nftFamilyName,
  parseBpf,
  parseChain,
  parseFilter,
  parseNftRule,
  parseU32,
  type Qdisc,
  TC_CLSACT_IN,
  TC_INGRESS_HANDLE,
  TC_INGRESS_PARENT,
  type TcStats,
} from "../../netlink/index.ts";
import { type Netns, type NetnsIdentity, openNetns } from "./netns.ts";
import type { WiringModel } from "./plan.ts";
import { guardTable } from "./plan-redirect.ts";
import { type PodState, podLinks, readPodState, TAP_NAME } from "./pod-state.ts";

/** Everything below is JSON. */
export interface NetworkReport {
  readonly netns: NetnsIdentity;
  readonly nics: readonly NicReport[];
  /** Chains and rules of the namespace's own netfilter: the traffic of the microVM meets none of them. */
  readonly netfilter: readonly ChainReport[];
  /** Tables of the older iptables interface that are in use ("filter", "nat"), whose rules are not listed. */
  readonly legacyTables: readonly string[];
}

export interface NicReport {
  readonly model: WiringModel | "none";
  readonly pod: InterfaceReport;
  readonly tap: InterfaceReport | undefined;
  /** Filters on the ingress side of both, in the order in which a frame meets them. */
  readonly filters: readonly FilterReport[];
  readonly guard: readonly GuardReport[];
}

export interface InterfaceReport {
  readonly name: string;
  readonly index: number;
  readonly kind: string;
  readonly mac: string;
  readonly mtu: number;
  readonly up: boolean;
  /** A tap has a carrier while some process holds it open. */
  readonly carrier: boolean;
  readonly addresses: readonly string[];
  readonly rootQdisc: string;
  readonly ipv6: boolean;
  readonly stats: LinkStats | undefined;
}

export interface FilterReport {
  readonly device: string;
  readonly qdisc: string;
  readonly parent: number;
  readonly preference: number;
  readonly handle: number;
  readonly kind: string;
  readonly protocol: number;
  /** Ours, or somebody else's. */
  readonly ours: boolean;
  /** Where it sends frames, when it is one of ours. */
  readonly redirectsTo: string | undefined;
  readonly programId: number | undefined;
  /** Of the action, or of the qdisc for a bpf filter, which has no counter of its own. */
  readonly counters: TcStats | undefined;
}

export interface GuardReport {
  readonly device: string;
  readonly direction: "in" | "out";
  readonly droppedPackets: number;
  readonly droppedBytes: number;
}

export interface ChainReport {
  readonly family: string;
  readonly table: string;
  readonly chain: string;
  /** The name of the device, for the family netdev. */
  readonly device: string;
  /** False for a chain that is only jumped to. */
  readonly isBase: boolean;
  readonly rules: number;
}

/** Reads the namespace at `netnsPath`. @throws SandboxError as openNetns() does. */
export async function showPodNetwork(netnsPath: string): Promise<NetworkReport> {
  const netns = openNetns(netnsPath);
  try {
    const { state, socket } = await readPodState(netns.fd);
    try {
      const { chains, rules } = await readNft(netns);
      const reader: Reader = { netns, state, socket, chains };
      const nics: NicReport[] = [];
      for (const link of podLinks(state)) nics.push(await nicReport(reader, link));
      return {
        netns: { path: netns.path, device: netns.device, inode: netns.inode },
        nics,
        netfilter: foreignChains(chains, rules),
        legacyTables: await legacyTables(netns),
      };
    } finally {
      socket.close();
    }
  } finally {
    netns.close();
  }
}

interface Reader {
  readonly netns: Netns;
  readonly state: PodState;
  readonly socket: NetlinkSocket;
  readonly chains: readonly ChainInfo[];
}

type RuleHead = ReturnType<typeof parseNftRule>;

/** Empty where the kernel has no nf_tables. */
async function readNft(netns: Netns): Promise<{ chains: ChainInfo[]; rules: RuleHead[] }> {
  try {
    const chains = await nftDump(netns.fd, dumpChains(NFPROTO_UNSPEC));
    const rules = await nftDump(netns.fd, dumpNftRules(NFPROTO_UNSPEC));
    return {
      chains: chains.map((message) => parseChain(message.payload)),
      rules: rules.map((message) => parseNftRule(message.payload)),
    };
  } catch {
    return { chains: [], rules: [] };
  }
}

function foreignChains(chains: readonly ChainInfo[], rules: readonly RuleHead[]): ChainReport[] {
  return chains
    .filter((chain) => !chain.table.startsWith(guardTable("")))
    .map(({ family, table, name, device, hook }) => ({
      family: nftFamilyName[family] ?? String(family),
      table,
      chain: name,
      device,
      isBase: hook !== undefined,
      rules: rules.filter((rule) => rule.family === family && rule.table === table && rule.chain === name)
        .length,
    }));
}

/** One name a line; the files exist where the modules are loaded. */
async function legacyTables(netns: Netns): Promise<string[]> {
  const results = await runInNetns(
    netns.fd,
    ["ip_tables_names", "ip6_tables_names"].map((name) => ({
      do: "read-file",
      path: `/proc/thread-self/net/${name}`,
      optional: true,
    })),
  );
  const names = results.flatMap(({ data }) =>
    data === undefined ? [] : new TextDecoder().decode(data).split("\n"),
  );
  return [...new Set(names.filter((name) => name !== ""))].sort();
}

async function nicReport(reader: Reader, link: Link): Promise<NicReport> {
  const { tap, filters } = await findTap(reader, link);
  const guard = guardReports(reader, tap);
  const pod = await interfaceReport(reader, link);
  const tapReport = tap === undefined ? undefined : await interfaceReport(reader, tap);
  return { model: modelOf(tap, filters), pod, tap: tapReport, filters, guard };
}

function modelOf(tap: Link | undefined, filters: readonly FilterReport[]): WiringModel | "none" {
  if (tap === undefined) return "none";
  if (tap.kind === "macvtap") return "macvtap";
  return filters.some((filter) => filter.ours && filter.kind === "bpf") ? "ebpf" : "tcfilter";
}

/** The tap of `link`: the one that a filter joins to it, the macvtap on top of it, or the guard's name for it. */
async function findTap(
  reader: Reader,
  link: Link,
): Promise<{ tap: Link | undefined; filters: FilterReport[] }> {
  const taps = reader.state.links.filter((entry) => TAP_NAME.test(entry.name));
  const own = await filterReports(reader, link, taps);
  const macvtap = taps.find((tap) => tap.kind === "macvtap" && tap.parentIndex === link.index);
  if (macvtap !== undefined) return { tap: macvtap, filters: own };
  for (const tap of taps) {
    const theirs = await filterReports(reader, tap, [link]);
    const joined =
      own.some((filter) => filter.redirectsTo === tap.name) ||
      theirs.some((filter) => filter.redirectsTo === link.name) ||
      reader.chains.some((chain) => chain.table === guardTable(tap.name) && chain.device === link.name);
    if (joined) return { tap, filters: [...theirs, ...own] };
  }
  return { tap: undefined, filters: own };
}

async function filterReports(reader: Reader, link: Link, peers: readonly Link[]): Promise<FilterReport[]> {
  const qdisc = reader.state.qdiscs.find(
    (entry) => entry.index === link.index && entry.parent === TC_INGRESS_PARENT,
  );
  if (qdisc === undefined) return [];
  const parent = qdisc.kind === "clsact" ? TC_CLSACT_IN : TC_INGRESS_HANDLE;
  const messages = await reader.socket.dump(dumpFilters(link.index, parent));
  return messages
    .map((message) => parseFilter(message.payload))
    .filter((filter) => filter.handle !== 0 && !isHashTable(filter))
    .map((filter) => filterReport(filter, link, qdisc, peers))
    .sort((a, b) => a.preference - b.preference);
}

/** The kernel lists u32's hash tables beside its filters. */
function isHashTable(filter: Filter): boolean {
  return filter.kind === "u32" && parseU32(filter.options).keys === undefined;
}

function filterReport(filter: Filter, link: Link, qdisc: Qdisc, peers: readonly Link[]): FilterReport {
  const bpf = filter.kind === "bpf" ? parseBpf(filter.options) : undefined;
  const actions = filter.kind === "u32" ? parseU32(filter.options).actions : [];
  const target =
    bpf === undefined
      ? peers.find((peer) => actions.some(({ mirred }) => mirred?.index === peer.index))
      : peers.find((peer) => bpf.name === `caisson_${peer.index}`);
  return {
    device: link.name,
    qdisc: qdisc.kind,
    parent: filter.parent,
    preference: filter.preference,
    handle: filter.handle,
    kind: filter.kind,
    protocol: filter.protocol,
    ours: target !== undefined || bpf?.name === "caisson_guard",
    redirectsTo: target?.name,
    programId: bpf?.programId,
    counters: actions[0]?.stats ?? qdisc.stats,
  };
}

function guardReports(reader: Reader, tap: Link | undefined): GuardReport[] {
  if (tap === undefined) return [];
  return reader.chains
    .filter((chain) => chain.table === guardTable(tap.name))
    .map(({ name, packets, bytes }) => ({
      device: name.replace(/-(in|out)$/, ""),
      direction: name.endsWith("-in") ? "in" : "out",
      droppedPackets: packets,
      droppedBytes: bytes,
    }));
}

async function interfaceReport(reader: Reader, link: Link): Promise<InterfaceReport> {
  const path = `/proc/sys/net/ipv6/conf/${link.name}/disable_ipv6`;
  const [result] = await runInNetns(reader.netns.fd, [{ do: "read-file", path }]);
  const root = reader.state.qdiscs.find((qdisc) => qdisc.index === link.index && qdisc.parent === 0xffffffff);
  return {
    name: link.name,
    index: link.index,
    kind: link.kind,
    mac: link.mac,
    mtu: link.mtu,
    up: (link.flags & 1) !== 0,
    carrier: link.carrier,
    addresses: reader.state.addresses
      .filter((entry) => entry.index === link.index)
      .map((entry) => entry.address),
    rootQdisc: root?.kind ?? link.qdisc,
    ipv6: result?.data !== undefined && result.data[0] === 0x30,
    stats: link.stats,
  };
}
