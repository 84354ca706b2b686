/** `shim overhead`: what an idle pod costs, as a RuntimeClass that the scheduler understands. */
import fs from "node:fs";
import { join } from "node:path";
import { SandboxError } from "../../base/errors.ts";
import { type Arguments, formatMemory, table } from "../../cli/index.ts";
import { loadConfig } from "../../config/index.ts";
import { type OperatorHost, printJson } from "../host.ts";
import { type IdlePod, measureIdlePod } from "../idle-pod.ts";
import type { ProportionalMemory } from "../processes.ts";
import { sum } from "../sandbox-view.ts";
import { absolutePath } from "./config.ts";

const MIB = 1 << 20;
/** Nodes with it are those that the installer in configs/kubernetes serves. */
const NODE_LABEL = "caisson.io/node";

export async function runOverhead(args: Arguments, host: OperatorHost): Promise<number> {
  if (process.getuid?.() !== 0)
    throw new SandboxError("ERR_PERMISSION", "starting a pod needs root: sudo shim overhead");
  const file = args.value("config");
  const configPath = file === undefined ? undefined : absolutePath(file);
  // Says what is wrong with it before a pod fails for it.
  await loadConfig(configPath === undefined ? {} : { path: configPath });
  const shim = join(host.programRoot, "bin/containerd-shim-caisson-v2");
  if (!fs.existsSync(shim)) throw new SandboxError("ERR_HOST", `${shim} does not exist: run npm run build`);
  const seconds = args.number("seconds", 10, 1, 3600);
  const handler = args.value("handler") ?? "caisson";
  if (!args.flag("json")) host.stderr(`measuring an idle pod for ${seconds} s...\n`);
  const pod = await measureIdlePod({ shim, configPath, seconds, signal: host.signal });
  const fixed = podFixed(pod);
  if (args.flag("json")) printJson(host, { ...pod, podFixed: fixed });
  else {
    host.stderr(details(pod));
    host.stdout(runtimeClass(handler, fixed));
  }
  return 0;
}

/**
 * What the scheduler is told: memory with a tenth on top, in steps of 16 MiB; processor time with a quarter on top, in
 * steps of 10 thousandths of a CPU. Pages of files do not count: all pods of a node share them, and the host drops them
 * when it needs memory. Pure.
 */
export function podFixed(pod: Pick<IdlePod, "memory" | "cpuSeconds" | "seconds">): {
  memory: string;
  cpu: string;
} {
  const { bytes, fileBytes } = memoryOf(pod);
  const mebibytes = Math.ceil(((bytes - fileBytes) * 1.1) / (16 * MIB)) * 16;
  // To a thousandth: what floating point adds is no step.
  const withAir = Number(((sum(pod.cpuSeconds) / pod.seconds) * 1000 * 1.25).toFixed(3));
  const millicpus = Math.max(10, Math.ceil(withAir / 10) * 10);
  return { memory: `${mebibytes}Mi`, cpu: `${millicpus}m` };
}

/** Pure. */
export function runtimeClass(handler: string, { memory, cpu }: { memory: string; cpu: string }): string {
  return `apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: ${handler}
handler: ${handler}
overhead:
  podFixed:
    memory: ${memory}
    cpu: ${cpu}
scheduling:
  nodeSelector:
    ${NODE_LABEL}: "true"
`;
}

function details(pod: IdlePod): string {
  const row = (name: string, { bytes, fileBytes }: ProportionalMemory, cpuSeconds: number) => [
    name,
    formatMemory(bytes),
    formatMemory(fileBytes),
    `${((cpuSeconds / pod.seconds) * 1000).toFixed(0)}m`,
  ];
  const rows = Object.entries(pod.memory).map(([name, memory]) =>
    row(name, memory, pod.cpuSeconds[name] ?? 0),
  );
  rows.push(row("total", memoryOf(pod), sum(pod.cpuSeconds)));
  return (
    table(["COMPONENT", "MEMORY (PSS)>", "OF IT FILES>", "CPU>"], rows) +
    "pages of files are shared by all pods of the node and not counted in the overhead\n" +
    `ready after ${(pod.startMs / 1000).toFixed(1)} s\n`
  );
}

/** Of all components. */
export function memoryOf({ memory }: Pick<IdlePod, "memory">): ProportionalMemory {
  const all = Object.values(memory);
  return {
    bytes: all.reduce((total, { bytes }) => total + bytes, 0),
    fileBytes: all.reduce((total, { fileBytes }) => total + fileBytes, 0),
  };
}
