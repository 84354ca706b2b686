/** `shim list`: the sandboxes of this host. */
import { basename } from "node:path";
import { type Arguments, fittingTable, formatDuration, formatMemory, type Paint } from "../../cli/index.ts";
import { type OperatorHost, printJson } from "../host.ts";
import { fact, numberFact } from "../sandbox-record.ts";
import {
  memoryByComponent,
  podOf,
  type SandboxView,
  shortId,
  startedAt,
  stateOf,
  sum,
  viewSandboxes,
} from "../sandbox-view.ts";

/** What a terminal that is too narrow does without, the first of them first. */
const SPARE = ["BY COMPONENT", "KERNEL", "NETWORK", "ACCEL", "VM", "CONTAINERS"];

export async function runList(args: Arguments, host: OperatorHost): Promise<number> {
  const views = await viewSandboxes();
  if (args.flag("json")) {
    printJson(host, views.map(describe));
    return 0;
  }
  if (args.flag("quiet")) {
    host.stdout(views.map(({ record }) => `${record.id}\n`).join(""));
    return 0;
  }
  if (views.length === 0) {
    host.stderr("no sandboxes\n");
    return 0;
  }
  const headings = [
    "SANDBOX",
    "POD",
    "CONTAINERS>",
    "STATE",
    "UPTIME>",
    "VM",
    "PSS>",
    "BY COMPONENT",
    "KERNEL",
    "ACCEL",
    "NETWORK",
  ];
  const { stdout } = host.streams;
  const columns = stdout.isTTY === true ? stdout.columns : Number.POSITIVE_INFINITY;
  const rows = views.map((view) => row(view, host.paint, args.flag("no-trunc")));
  host.stdout(fittingTable(headings, rows, columns, SPARE));
  return 0;
}

function row(view: SandboxView, paint: Paint, whole: boolean): string[] {
  const { record, status } = view;
  const memory = memoryByComponent(view);
  const started = startedAt(view);
  const parts = Object.entries(memory).map(([name, bytes]) => `${name} ${mebibytes(bytes)}`);
  const memoryMiB = numberFact(record, "memoryMiB");
  const cpus = numberFact(record, "cpus");
  return [
    whole ? record.id : shortId(record.id),
    podOf(view) ?? "-",
    status === undefined ? "?" : String(status.containers.length),
    paintState(stateOf(view), paint),
    started === 0 ? "?" : formatDuration(Date.now() - started),
    cpus === undefined || memoryMiB === undefined ? "?" : `${cpus} CPU ${memoryMiB} MiB`,
    formatMemory(sum(memory)),
    parts.length === 0 ? "-" : `${parts.join(" ")} MiB`,
    kernelOf(view) ?? "?",
    fact(record, "accel") ?? "?",
    fact(record, "network") ?? "?",
  ];
}

function mebibytes(bytes: number): string {
  const value = bytes / (1 << 20);
  return value < 10 ? value.toFixed(1) : value.toFixed(0);
}

function paintState(state: string, paint: Paint): string {
  if (state === "running") return paint("green", state);
  return ["orphaned", "failed", "unresponsive"].includes(state)
    ? paint("red", state)
    : paint("yellow", state);
}

/** What the guest said; before its hello, the release in the image's path. */
function kernelOf({ record, status }: SandboxView): string | undefined {
  const said = status?.guest?.kernelRelease ?? "";
  if (said !== "") return said;
  const path = fact(record, "kernel");
  return path === undefined ? undefined : basename(path.replace(/\/[^/]+$/, ""));
}

/** Everything, for programs: names as documented in docs/cli.md. */
export function describe(view: SandboxView): Record<string, unknown> {
  const { record, status, problem } = view;
  const memory = memoryByComponent(view);
  const started = startedAt(view);
  const pod = fact(record, "pod");
  return {
    id: record.id,
    namespace: record.namespace,
    containerd: fact(record, "containerd"),
    pod:
      pod === undefined
        ? null
        : { name: pod, namespace: fact(record, "podNamespace") ?? "", uid: fact(record, "podUid") ?? "" },
    state: stateOf(view),
    problem: problem ?? (status?.failure || null),
    containers: (status?.containers ?? []).map(({ id, state, guestPid, bundle, exitStatus, execIds }) => ({
      id,
      state,
      guestPid,
      bundle,
      ...(state === "exited" && { exitStatus }),
      execIds,
    })),
    startedAt: started === 0 ? null : new Date(started).toISOString(),
    uptimeSeconds: started === 0 ? null : Math.round((Date.now() - started) / 1000),
    vm: {
      cpus: numberFact(record, "cpus") ?? null,
      memoryMiB: numberFact(record, "memoryMiB") ?? null,
      accel: fact(record, "accel") ?? null,
      qemuPid: status?.qemuPid ?? null,
    },
    pssBytes: { ...memory, total: sum(memory) },
    kernel: { release: kernelOf(view) ?? null, path: fact(record, "kernel") ?? null },
    image: fact(record, "image") ?? null,
    network: fact(record, "network") ?? null,
    bootMs: Object.fromEntries(
      (status?.bootSteps ?? []).map(({ name, milliseconds }) => [name, milliseconds]),
    ),
    agent: status?.guest?.agentVersion ?? null,
    console:
      status === undefined ? null : { enabled: status.consoleEnabled, sessions: status.consoleSessions },
    configFiles: status?.configFiles ?? [],
    processes: record.processes,
    runDir: record.dir,
  };
}
