/** Texts about a network report, for people: the filters as tc names things, and the way of a packet. */
import type { FilterReport, NetworkReport, NicReport } from "./show.ts";

/** Ethertypes by tc's names. */
const PROTOCOLS: Readonly<Record<number, string>> = { 3: "all", 2048: "ip", 34525: "ipv6", 2054: "arp" };

/** Qdiscs and filters of both ends, each filter once, with the counters of the kernel. */
export function formatTc(report: NetworkReport): string {
  const lines = report.nics.flatMap((nic) =>
    nic.filters.flatMap((filter) => [
      `${filter.qdisc} of ${filter.device}`,
      `  filter pref ${filter.preference} protocol ${PROTOCOLS[filter.protocol] ?? `0x${filter.protocol.toString(16)}`} ${filter.kind} handle ${handleText(filter)}${filter.programId === undefined ? "" : ` program ${filter.programId}`}`,
      `    ${actionText(filter)}`,
      ...(filter.counters === undefined
        ? []
        : [
            `    sent ${filter.counters.bytes} bytes ${filter.counters.packets} packets, dropped ${filter.counters.drops}`,
          ]),
    ]),
  );
  return lines.length === 0 ? "no filters" : lines.join("\n");
}

function handleText({ kind, handle }: FilterReport): string {
  if (kind !== "u32") return `0x${handle.toString(16)}`;
  return `${(handle >>> 20).toString(16)}::${(handle & 0xfff).toString(16)}`;
}

function actionText(filter: FilterReport): string {
  if (filter.redirectsTo !== undefined) return `redirect to ${filter.redirectsTo} (egress)`;
  return filter.ours ? "drop" : "of another owner";
}

/** The hops of a packet in both directions, and what of the namespace it never meets. */
export function explain(report: NetworkReport): string {
  if (report.nics.length === 0) return "This sandbox has no network interface.";
  return [...report.nics.flatMap(explainNic), ...explainNetfilter(report)].join("\n");
}

function explainNic(nic: NicReport): string[] {
  const { pod, tap, model } = nic;
  if (tap === undefined)
    return [`${pod.name}: not joined to a tap; the namespace's own kernel answers for it.`];
  const address = pod.addresses.filter((cidr) => !cidr.startsWith("fe80:")).join(", ");
  const owner =
    model === "macvtap"
      ? `The guest has the MAC ${tap.mac}; ${pod.name} gave up its addresses.`
      : `The guest has the MAC ${pod.mac}${address === "" ? "" : ` and the addresses ${address}`}; ${pod.name} keeps them for CNI but never answers with them.`;
  const [out, back] =
    model === "macvtap"
      ? [
          `guest -> ${tap.name} -> ${pod.name} egress (qdisc, driver) -> host end`,
          `host end -> ${pod.name} ingress (tc, netfilter netdev ingress) -> macvtap by MAC -> ${tap.name} -> guest`,
        ]
      : [
          `guest -> ${tap.name} tc ingress [redirect] -> ${pod.name} tc egress, qdisc, driver -> host end`,
          `host end -> ${pod.name} XDP, tc ingress [redirect] -> ${tap.name} tc egress, ring -> guest`,
        ];
  return [`${pod.name} (${model})`, `  ${owner}`, `  out:  ${out}`, `  back: ${back}`];
}

function explainNetfilter(report: NetworkReport): string[] {
  const rules = report.netfilter.filter((chain) => chain.isBase || chain.rules > 0);
  const legacy = report.legacyTables.map((table) => `  iptables (legacy) table ${table}`);
  const never =
    "Never met inside the namespace: netfilter netdev egress of both interfaces, netdev ingress after the redirect, and prerouting, input, forward, output and postrouting of ip, ip6, inet and arp; nor its routes, neighbours and conntrack.";
  if (rules.length === 0 && legacy.length === 0) return [never, "No rules are there that this would bypass."];
  return [
    never,
    "Rules there that the microVM's traffic bypasses:",
    ...rules.map(
      ({ family, table, chain, rules: count }) =>
        `  ${family} ${table} ${chain}: ${count} rule${count === 1 ? "" : "s"}`,
    ),
    ...legacy,
  ];
}
