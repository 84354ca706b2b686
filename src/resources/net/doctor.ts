/** What is wrong, or may surprise, about a pod's network: the data behind `shim net doctor`. Pure. */
import type { NetworkReport, NicReport } from "./show.ts";

export interface Finding {
  /** error: traffic is lost or goes astray. warning: it works, but not as it should. info: good to know. */
  readonly severity: "error" | "warning" | "info";
  /** Stable, for scripts. */
  readonly code: string;
  readonly message: string;
  /** What to do, where there is something. */
  readonly remedy: string;
}

export interface HostFacts {
  /** Whether /dev/vhost-net is there. */
  readonly vhostNet: boolean;
}

/** @returns what was found, errors first; empty when all is well. */
export function diagnose(report: NetworkReport, host: HostFacts): Finding[] {
  const rank = { error: 0, warning: 1, info: 2 } as const;
  return [...report.nics.flatMap(diagnoseNic), ...diagnoseRules(report), ...diagnoseHost(report, host)].sort(
    (a, b) => rank[a.severity] - rank[b.severity],
  );
}

function diagnoseNic(nic: NicReport): Finding[] {
  const { pod, tap } = nic;
  if (tap === undefined) {
    return [
      {
        severity: "error",
        code: "not-attached",
        message: `${pod.name} is not joined to a tap: the namespace's own kernel answers for the pod`,
        remedy: "start the sandbox anew; its shim wires the interface at boot and follows later ones",
      },
    ];
  }
  const common = [...mtu(nic, tap.name, tap.mtu), ...carrier(nic, tap)];
  return nic.model === "macvtap" ? common : [...common, ...redirects(nic, tap.name), ...hygiene(nic, tap)];
}

type Tap = NonNullable<NicReport["tap"]>;

function mtu({ pod }: NicReport, tapName: string, tapMtu: number): Finding[] {
  if (pod.mtu === tapMtu) return [];
  return [
    {
      severity: "error",
      code: "mtu-mismatch",
      message: `${pod.name} has the MTU ${pod.mtu}, ${tapName} ${tapMtu}: the redirect checks neither, so larger frames vanish further on`,
      remedy: `set both to the same value: ip link set ${tapName} mtu ${pod.mtu}`,
    },
  ];
}

function carrier({ pod }: NicReport, tap: Tap): Finding[] {
  const down = (name: string, remedy: string): Finding => ({
    severity: "error",
    code: "no-carrier",
    message: `${name} has no carrier`,
    remedy,
  });
  return [
    ...(tap.carrier && tap.up
      ? []
      : [down(tap.name, "no process holds it open: QEMU of this sandbox has ended")]),
    ...(pod.carrier && pod.up ? [] : [down(pod.name, "bring up its other end in the host's namespace")]),
  ];
}

function redirects(nic: NicReport, tapName: string): Finding[] {
  const findings: Finding[] = [];
  for (const [from, to] of [
    [nic.pod.name, tapName],
    [tapName, nic.pod.name],
  ] as const) {
    const filters = nic.filters.filter((filter) => filter.device === from);
    const ours = filters.find((filter) => filter.redirectsTo === to);
    if (ours === undefined) {
      findings.push({
        severity: "error",
        code: "redirect-lost",
        message: `${from} has lost the filter that sends its frames to ${to}`,
        remedy: "somebody removed it; start the sandbox anew",
      });
      continue;
    }
    const before = filters.filter((filter) => !filter.ours && filter.preference < ours.preference);
    if (before.length > 0) {
      findings.push({
        severity: "warning",
        code: "foreign-filters",
        message: `${before.length} filter${before.length === 1 ? "" : "s"} of another owner (preference ${before.map((filter) => filter.preference).join(", ")}) see${before.length === 1 ? "s" : ""} the frames of ${from} before ours, and may take them`,
        remedy: `see who made them: tc filter show dev ${from} ingress`,
      });
    }
  }
  return findings;
}

function hygiene(nic: NicReport, tap: Tap): Finding[] {
  const findings: Finding[] = [];
  if (
    nic.guard.length === 0 &&
    !nic.filters.some((filter) => filter.ours && filter.redirectsTo === undefined)
  ) {
    findings.push({
      severity: "warning",
      code: "no-guard",
      message: `nothing guards ${nic.pod.name}: were the redirect lost, the kernel would answer for the pod`,
      remedy: "the kernel needs nf_tables with the netdev family, or cls_bpf",
    });
  }
  const dropped = nic.guard.filter((chain) => chain.direction === "in" && chain.droppedPackets > 0);
  for (const chain of dropped) {
    findings.push({
      severity: "warning",
      code: "guard-dropped",
      message: `the guard of ${chain.device} dropped ${chain.droppedPackets} frames that no filter took`,
      remedy: "the redirect was lost for a while, or came up after its interface",
    });
  }
  if (tap.ipv6) {
    findings.push({
      severity: "warning",
      code: "tap-ipv6",
      message: `IPv6 is on at ${tap.name}: the namespace's kernel sends frames of its own into the guest`,
      remedy: `write 1 to /proc/sys/net/ipv6/conf/${tap.name}/disable_ipv6`,
    });
  }
  if (tap.rootQdisc === "fq") {
    findings.push({
      severity: "warning",
      code: "tap-fq",
      message: `${tap.name} has the root qdisc fq, which takes receive timestamps for departure times and drops frames`,
      remedy: `tc qdisc replace dev ${tap.name} root noqueue`,
    });
  }
  return findings;
}

function diagnoseRules(report: NetworkReport): Finding[] {
  if (report.nics.every((nic) => nic.tap === undefined)) return [];
  const chains = report.netfilter.filter((chain) => chain.rules > 0);
  const count = chains.reduce((sum, chain) => sum + chain.rules, 0);
  const where = [
    ...new Set(chains.map((chain) => `${chain.family} ${chain.table}`)),
    ...report.legacyTables.map((table) => `iptables ${table}`),
  ];
  if (where.length === 0) return [];
  return [
    {
      severity: "warning",
      code: "rules-bypassed",
      message: `${count > 0 ? `${count} netfilter rule${count === 1 ? "" : "s"}` : "netfilter tables"} in the namespace (${where.join(", ")}) do not apply to the microVM: its frames pass below netfilter`,
      remedy: "put such rules at the host end of the interface, or inside the guest",
    },
  ];
}

function diagnoseHost(report: NetworkReport, host: HostFacts): Finding[] {
  if (host.vhostNet || report.nics.every((nic) => nic.tap === undefined)) return [];
  return [
    {
      severity: "info",
      code: "no-vhost-net",
      message: "the host has no vhost-net: QEMU moves the frames itself, which is slower",
      remedy: "modprobe vhost_net",
    },
  ];
}
