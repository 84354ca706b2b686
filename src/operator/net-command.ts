/**
 * `shim net show` and `shim net doctor`: how a sandbox's network is wired, as the kernel says now. QEMU runs in the pod's
 * namespace, so its process leads there, whether or not the shim lives.
 */
import { existsSync } from "node:fs";
import { SandboxError } from "../base/errors.ts";
import {
  diagnose,
  explain,
  type Finding,
  formatTc,
  isHostNetns,
  type NetworkReport,
  showPodNetwork,
  VHOST_NET,
} from "../resources/net/index.ts";

/** The part of a sandbox's record that is needed. */
export interface NetTarget {
  readonly id: string;
  readonly processes: readonly { readonly name: string; readonly pid: number }[];
}

export type NetFormat = "text" | "json" | "tc" | "explain";

/** What `net show` prints. @throws SandboxError ERR_NOT_FOUND when the sandbox has no VM or no network of its own. */
export async function netShow(target: NetTarget, format: NetFormat): Promise<string> {
  const report = await reportOf(target);
  switch (format) {
    case "json":
      return `${JSON.stringify(report, (_, value: unknown) => (typeof value === "bigint" ? Number(value) : value), 2)}\n`;
    case "tc":
      return `${formatTc(report)}\n`;
    case "explain":
      return `${explain(report)}\n`;
    default:
      return formatNetwork(report);
  }
}

/** What `net doctor` prints, and its exit status: 1 when there is an error. @throws as netShow() */
export async function netDoctor(target: NetTarget, json: boolean): Promise<{ text: string; status: number }> {
  const findings = diagnose(await reportOf(target), { vhostNet: existsSync(VHOST_NET) });
  const status = findings.some(({ severity }) => severity === "error") ? 1 : 0;
  const text = json ? `${JSON.stringify(findings, null, 2)}\n` : formatFindings(findings);
  return { text, status };
}

async function reportOf({ id, processes }: NetTarget): Promise<NetworkReport> {
  const qemu = processes.find(({ name }) => name === "qemu");
  if (qemu === undefined) {
    throw new SandboxError(
      "ERR_STATE",
      `sandbox ${id} has no running VM, and so no network to show; shim logs ${id} tells why`,
    );
  }
  const report = await showPodNetwork(`/proc/${qemu.pid}/ns/net`);
  if (isHostNetns(report.netns)) {
    throw new SandboxError(
      "ERR_NOT_FOUND",
      `sandbox ${id} has no network of its own (runtime.internetworking_model is none)`,
    );
  }
  return report;
}

/** One line an interface, and what joins it. Pure. */
export function formatNetwork(report: NetworkReport): string {
  if (report.nics.length === 0) return "no interfaces\n";
  const lines = report.nics.flatMap(({ model, pod, tap, filters, guard }) => {
    const addresses = pod.addresses.join(", ") || "no addresses";
    const dropped = guard.reduce((sum, chain) => sum + Number(chain.droppedPackets), 0);
    return [
      `${pod.name}  ${pod.mac}  mtu ${pod.mtu}  ${addresses}`,
      tap === undefined
        ? "  not joined to a tap"
        : `  ${model}: ${tap.name}  mtu ${tap.mtu}  ${tap.carrier ? "held by the VM" : "no carrier"}`,
      ...filters.map(
        (filter) =>
          `  ${filter.device} -> ${filter.redirectsTo ?? (filter.ours ? "dropped" : "filter of another owner")}` +
          (filter.counters === undefined
            ? ""
            : `  ${filter.counters.packets} packets, ${filter.counters.bytes} bytes`),
      ),
      ...(guard.length === 0 ? [] : [`  guard chains dropped ${dropped} frames`]),
    ];
  });
  return `${lines.join("\n")}\n`;
}

/** Pure. */
export function formatFindings(findings: readonly Finding[]): string {
  if (findings.length === 0) return "nothing is wrong\n";
  return findings
    .map(({ severity, code, message, remedy }) => `${severity}: ${message} [${code}]\n  ${remedy}\n`)
    .join("");
}
