/** The metrics: tables of names, types and where their samples come from. */
import { fact, numberFact } from "../sandbox-record.ts";
import { containerUsage } from "../usage.ts";
import type { SandboxSnapshot, Snapshot } from "./collector.ts";

type Labels = Readonly<Record<string, string>>;

export interface Sample {
  readonly labels: Labels;
  readonly value: number;
  /** Of a histogram: the name with _bucket, _sum or _count. */
  readonly metricName?: string;
}

export interface MetricDefinition<Of> {
  readonly name: string;
  readonly type: "gauge" | "counter" | "histogram";
  readonly help: string;
  readonly samples: (of: Of) => readonly Sample[];
}

/** Cgroup v2 says "max" for no limit, which comes as 2^64-1. */
const NO_LIMIT = 2 ** 60;

/** Which sandbox a sample is of. */
export const labelsOf = ({ record }: SandboxSnapshot): Labels => ({
  sandbox: record.id,
  namespace: record.namespace,
  pod: fact(record, "pod") ?? "",
  pod_namespace: fact(record, "podNamespace") ?? "",
});

const sampleOf = (value: number | undefined, labels: Labels = {}): Sample[] =>
  value === undefined ? [] : [{ labels, value }];

/** One sample, when there is a value. */
const one = (value: (sandbox: SandboxSnapshot) => number | undefined) => (sandbox: SandboxSnapshot) =>
  sampleOf(value(sandbox));

const perProcess =
  (value: (usage: { cpuSeconds: number; rssBytes: number; threads: number }) => number) =>
  ({ processes }: SandboxSnapshot) =>
    [...processes].map(([component, usage]) => ({ labels: { component }, value: value(usage) }));

type Container = NonNullable<SandboxSnapshot["stats"]>["containers"][number];

const perContainer =
  (value: (container: Container) => number | undefined) =>
  ({ stats }: SandboxSnapshot) =>
    (stats?.containers ?? []).flatMap((container) => sampleOf(value(container), { container: container.id }));

const usageOf = ({ id, stats }: Container) =>
  stats === undefined ? undefined : containerUsage(id, stats, undefined, 0);

type Interface = NonNullable<Container["stats"]>["interfaces"][number];

/** The guest's interfaces are the pod's: each container reports the same ones. */
const perInterface =
  (value: (one: Interface) => bigint) =>
  ({ stats }: SandboxSnapshot) =>
    (stats?.containers[0]?.stats?.interfaces ?? [])
      .filter(({ name }) => name !== "lo")
      .map((one) => ({ labels: { interface: one.name }, value: Number(value(one)) }));

const sandboxMetrics: readonly MetricDefinition<SandboxSnapshot>[] = [
  {
    name: "caisson_sandbox_info",
    type: "gauge",
    help: "What a sandbox is made of; always 1",
    samples: ({ record, status }) => [
      {
        labels: {
          kernel: status?.guest?.kernelRelease ?? "",
          agent: status?.guest?.agentVersion ?? "",
          shim: status?.shim?.version ?? "",
          accel: fact(record, "accel") ?? "",
          network: fact(record, "network") ?? "",
          vcpus: fact(record, "cpus") ?? "",
        },
        value: 1,
      },
    ],
  },
  {
    name: "caisson_sandbox_up",
    type: "gauge",
    help: "1 when the shim answered when it was last asked; caisson_sandbox_age_seconds says when it last did",
    samples: one(({ seen, up }) => (seen ? Number(up) : undefined)),
  },
  {
    name: "caisson_guest_up",
    type: "gauge",
    help: "1 when the guest answered when it was last asked; caisson_guest_age_seconds says when it last did",
    samples: one(({ seen, guestUp }) => (seen ? Number(guestUp) : undefined)),
  },
  {
    name: "caisson_sandbox_start_time_seconds",
    type: "gauge",
    help: "When the sandbox was made, in seconds since the epoch",
    samples: one(({ record }) => {
      const ms = numberFact(record, "startedAtMs");
      return ms === undefined ? undefined : ms / 1000;
    }),
  },
  {
    name: "caisson_sandbox_boot_step_seconds",
    type: "gauge",
    help: "Time from the begin of the boot to the end of a step",
    samples: ({ stats }) =>
      (stats?.bootSteps ?? []).map(({ name, milliseconds }) => ({
        labels: { step: name },
        value: milliseconds / 1000,
      })),
  },
  {
    name: "caisson_sandbox_console_sessions",
    type: "gauge",
    help: "Sessions of the debug console that are open",
    samples: one(({ status }) => status?.consoleSessions),
  },
];

const shimMetrics: readonly MetricDefinition<SandboxSnapshot>[] = [
  {
    name: "caisson_shim_rpc_duration_seconds",
    type: "histogram",
    help: "Duration of the calls of containerd or CRI-O to the shim",
    samples: ({ stats }) => (stats === undefined ? [] : histogram(stats)),
  },
  {
    name: "caisson_shim_rpc_failed_total",
    type: "counter",
    help: "Calls of containerd or CRI-O that the shim answered with an error",
    samples: ({ stats }) =>
      (stats?.calls ?? []).map(({ method, failed }) => ({ labels: { method }, value: Number(failed) })),
  },
  {
    name: "caisson_shim_spans_exported_total",
    type: "counter",
    help: "Spans of the shim and its agent that the collector took; 0 without tracing",
    samples: one(({ stats }) => number(stats?.spansExported)),
  },
  {
    name: "caisson_shim_spans_dropped_total",
    type: "counter",
    help: "Spans of the shim and its agent that were lost",
    samples: one(({ stats }) => number(stats?.spansDropped)),
  },
  {
    name: "caisson_shim_heap_bytes",
    type: "gauge",
    help: "Heap of the shim's Node",
    samples: one(({ stats }) => (stats === undefined ? undefined : Number(stats.heapUsedBytes))),
  },
];

const processMetrics: readonly MetricDefinition<SandboxSnapshot>[] = [
  {
    name: "caisson_process_cpu_seconds_total",
    type: "counter",
    help: "Processor time of a component of the sandbox on the host, which is one process or several",
    samples: perProcess(({ cpuSeconds }) => cpuSeconds),
  },
  {
    name: "caisson_process_resident_memory_bytes",
    type: "gauge",
    help: "Resident memory of a component of the sandbox; guest memory counts in each process that maps it",
    samples: perProcess(({ rssBytes }) => rssBytes),
  },
  {
    name: "caisson_process_proportional_memory_bytes",
    type: "gauge",
    help: "Proportional memory (PSS) of a component of the sandbox, measured every 30 seconds",
    samples: ({ memory }) => [...memory].map(([component, value]) => ({ labels: { component }, value })),
  },
  {
    name: "caisson_process_threads",
    type: "gauge",
    help: "Threads of a component of the sandbox",
    samples: perProcess(({ threads }) => threads),
  },
  {
    name: "caisson_virtiofs_read_bytes_total",
    type: "counter",
    help: "Bytes that the virtiofsds read for the guest, and of its requests",
    samples: one(({ processes }) => processes.get("virtiofsd")?.readBytes),
  },
  {
    name: "caisson_virtiofs_written_bytes_total",
    type: "counter",
    help: "Bytes that the virtiofsds wrote for the guest, and of its answers",
    samples: one(({ processes }) => processes.get("virtiofsd")?.writtenBytes),
  },
  {
    name: "caisson_vsock_connections_total",
    type: "counter",
    help: "Connections between the shim and the guest",
    samples: one(({ stats }) => number(stats?.vsock?.connections)),
  },
  {
    name: "caisson_vsock_open_connections",
    type: "gauge",
    help: "Connections between the shim and the guest that are open",
    samples: one(({ stats }) => number(stats?.vsock?.open)),
  },
  {
    name: "caisson_vsock_sent_bytes_total",
    type: "counter",
    help: "Bytes that the shim sent to the guest",
    samples: one(({ stats }) => number(stats?.vsock?.sentBytes)),
  },
  {
    name: "caisson_vsock_received_bytes_total",
    type: "counter",
    help: "Bytes that the shim received from the guest",
    samples: one(({ stats }) => number(stats?.vsock?.receivedBytes)),
  },
];

const guestMetrics: readonly MetricDefinition<SandboxSnapshot>[] = [
  {
    name: "caisson_guest_memory_total_bytes",
    type: "gauge",
    help: "Memory that the guest's kernel manages",
    samples: one(({ stats }) => number(stats?.guest?.memoryTotalBytes)),
  },
  {
    name: "caisson_guest_memory_available_bytes",
    type: "gauge",
    help: "Memory that the guest's kernel could still give",
    samples: one(({ stats }) => number(stats?.guest?.memoryAvailableBytes)),
  },
  {
    name: "caisson_guest_cpu_seconds_total",
    type: "counter",
    help: "Time that the guest's processors were busy, by the guest's own count",
    samples: one(({ stats }) => (stats?.guest === undefined ? undefined : Number(stats.guest.cpuUsec) / 1e6)),
  },
  {
    name: "caisson_guest_threads",
    type: "gauge",
    help: "Processes and threads in the guest, those of its kernel among them",
    samples: one(({ stats }) => stats?.guest?.threadCount),
  },
  {
    name: "caisson_guest_cpus",
    type: "gauge",
    help: "Processors that are online in the guest",
    samples: one(({ stats }) => stats?.guest?.onlineCpus),
  },
  {
    name: "caisson_agent_resident_memory_bytes",
    type: "gauge",
    help: "Resident memory of the agent in the guest",
    samples: one(({ stats }) => number(stats?.guest?.agentRssBytes)),
  },
  {
    name: "caisson_container_cpu_seconds_total",
    type: "counter",
    help: "Processor time of a container in the guest",
    samples: perContainer(({ stats }) =>
      stats?.cpu === undefined ? undefined : Number(stats.cpu.usageUsec) / 1e6,
    ),
  },
  {
    name: "caisson_container_cpu_throttled_seconds_total",
    type: "counter",
    help: "Time that a container was held back by its processor limit",
    samples: perContainer(({ stats }) =>
      stats?.cpu === undefined ? undefined : Number(stats.cpu.throttledUsec) / 1e6,
    ),
  },
  {
    name: "caisson_container_memory_bytes",
    type: "gauge",
    help: "Memory of a container, page cache included",
    samples: perContainer(({ stats }) => number(stats?.memory?.usage)),
  },
  {
    name: "caisson_container_memory_limit_bytes",
    type: "gauge",
    help: "Memory limit of a container; absent without one",
    samples: perContainer(({ stats }) => {
      const limit = number(stats?.memory?.usageLimit);
      return limit === undefined || limit === 0 || limit > NO_LIMIT ? undefined : limit;
    }),
  },
  {
    name: "caisson_container_oom_kills_total",
    type: "counter",
    help: "Processes of a container that were killed for its memory limit",
    samples: perContainer(({ stats }) => number(stats?.memory?.events.oom_kill)),
  },
  {
    name: "caisson_container_processes",
    type: "gauge",
    help: "Processes and threads of a container",
    samples: perContainer(({ stats }) => number(stats?.pids?.current)),
  },
  {
    name: "caisson_container_io_read_bytes_total",
    type: "counter",
    help: "Bytes that a container read from block devices of the guest",
    samples: perContainer((container) => usageOf(container)?.readBytes),
  },
  {
    name: "caisson_container_io_written_bytes_total",
    type: "counter",
    help: "Bytes that a container wrote to block devices of the guest",
    samples: perContainer((container) => usageOf(container)?.writtenBytes),
  },
  {
    name: "caisson_guest_network_receive_bytes_total",
    type: "counter",
    help: "Bytes that an interface of the guest received",
    samples: perInterface(({ rxBytes }) => rxBytes),
  },
  {
    name: "caisson_guest_network_transmit_bytes_total",
    type: "counter",
    help: "Bytes that an interface of the guest sent",
    samples: perInterface(({ txBytes }) => txBytes),
  },
  {
    name: "caisson_guest_network_receive_errors_total",
    type: "counter",
    help: "Packets that an interface of the guest received with an error or dropped",
    samples: perInterface(({ rxErrors, rxDropped }) => rxErrors + rxDropped),
  },
  {
    name: "caisson_guest_network_transmit_errors_total",
    type: "counter",
    help: "Packets that an interface of the guest could not send",
    samples: perInterface(({ txErrors, txDropped }) => txErrors + txDropped),
  },
];

/** Of each sandbox. */
export const sandboxDefinitions: readonly MetricDefinition<SandboxSnapshot>[] = [
  ...sandboxMetrics,
  ...shimMetrics,
  ...processMetrics,
  ...guestMetrics,
];

/** Of all together, as of the scrape. */
export const hostDefinitions: readonly MetricDefinition<Snapshot>[] = [
  {
    name: "caisson_sandboxes",
    type: "gauge",
    help: "Sandboxes of this host by state",
    samples: ({ sandboxes }) => {
      const counts = new Map<string, number>();
      for (const sandbox of sandboxes) {
        const state = stateOf(sandbox);
        counts.set(state, (counts.get(state) ?? 0) + 1);
      }
      return [...counts].map(([state, value]) => ({ labels: { state }, value }));
    },
  },
  {
    name: "caisson_sandbox_age_seconds",
    type: "gauge",
    help: "Age of the figures of the shim; absent when it never answered",
    samples: ages(({ askedAtMs }) => askedAtMs),
  },
  {
    name: "caisson_guest_age_seconds",
    type: "gauge",
    help: "Age of the figures of the guest and its containers; absent when it never answered",
    samples: ages(({ guestAskedAtMs }) => guestAskedAtMs),
  },
  {
    name: "caisson_monitor_collect_seconds",
    type: "gauge",
    help: "Time that this scrape waited for sandboxes that had not been looked at of late",
    samples: ({ seconds }) => [{ labels: {}, value: seconds }],
  },
];

function ages(askedAtMs: (sandbox: SandboxSnapshot) => number | undefined) {
  return ({ sandboxes }: Snapshot): Sample[] => {
    const now = performance.now();
    return sandboxes.flatMap((sandbox) => {
      const askedAt = askedAtMs(sandbox);
      return askedAt === undefined
        ? []
        : [{ labels: labelsOf(sandbox), value: Math.round(now - askedAt) / 1000 }];
    });
  };
}

/** As `shim list` shows it. */
export function stateOf({ record, stats, status, seen, up }: SandboxSnapshot): string {
  if (!record.owned) return "orphaned";
  if (!seen) return "unknown";
  return up ? (stats?.state ?? status?.state ?? "unknown") : "unresponsive";
}

const number = (value: bigint | undefined): number | undefined =>
  value === undefined ? undefined : Number(value);

function histogram({ calls, callBoundsSeconds }: NonNullable<SandboxSnapshot["stats"]>): Sample[] {
  const name = "caisson_shim_rpc_duration_seconds";
  return calls.flatMap(({ method, count, seconds, buckets }) => [
    ...buckets.map((bucket, index) => ({
      labels: { method, le: String(callBoundsSeconds[index]) },
      value: Number(bucket),
      metricName: `${name}_bucket`,
    })),
    { labels: { method, le: "+Inf" }, value: Number(count), metricName: `${name}_bucket` },
    { labels: { method }, value: seconds, metricName: `${name}_sum` },
    { labels: { method }, value: Number(count), metricName: `${name}_count` },
  ]);
}
