/**
 * A pod as CRI describes it to a sandboxer (containerd's `sandboxer = "shim"`): there is no pause container and so no
 * OCI spec for the sandbox, and the files that containerd would otherwise make for the pod are ours to make.
 */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import type { Any } from "@bufbuild/protobuf/wkt";
import { SandboxError } from "../base/errors.ts";
import {
  type DNSConfig,
  type LinuxContainerResources,
  NamespaceMode,
  type PodSandboxConfig,
  PodSandboxConfigSchema,
} from "../gen/runtime/v1/api_pb.ts";
import type { OciMount, OciSpec } from "../oci/spec.ts";

/** PodSandboxConfig out of the options of CreateSandbox; an empty one where there are none (`ctr sandboxes`). */
export function podConfig(options: Any | undefined): PodSandboxConfig | undefined {
  if (options === undefined || options.typeUrl === "") return undefined;
  const name = options.typeUrl.slice(options.typeUrl.lastIndexOf("/") + 1);
  if (name !== PodSandboxConfigSchema.typeName) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `sandbox options of type ${options.typeUrl} are not known`,
    );
  }
  try {
    return fromBinary(PodSandboxConfigSchema, options.value);
  } catch (error) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", "the sandbox options are not a PodSandboxConfig", {
      cause: error,
    });
  }
}

export interface PodSpecInput {
  readonly id: string;
  readonly config: PodSandboxConfig | undefined;
  /** Of the pod's network namespace; empty for none. */
  readonly netnsPath: string;
  /** Of the CreateSandbox request; added to the pod's own. */
  readonly annotations: Readonly<Record<string, string>>;
}

/**
 * What the sandbox's own container would have said: sizes, cgroup, namespaces, name. It has no process. A namespace that
 * the pod shares with the host is absent, as in any spec.
 */
export function podSpec({ id, config, netnsPath, annotations }: PodSpecInput): OciSpec {
  const linux = config?.linux;
  const modes = linux?.securityContext?.namespaceOptions;
  const namespaces = [
    { type: "network", ...(netnsPath !== "" && { path: netnsPath }), mode: modes?.network },
    { type: "pid", mode: modes?.pid },
    { type: "ipc", mode: modes?.ipc },
  ];
  return {
    hostname: config?.hostname ?? "",
    annotations: {
      ...config?.annotations,
      ...annotations,
      ...sizeAnnotations(linux?.resources, linux?.overhead),
      "io.kubernetes.cri.container-type": "sandbox",
      "io.kubernetes.cri.sandbox-id": id,
    },
    linux: {
      namespaces: namespaces
        .filter(({ mode }) => mode !== NamespaceMode.NODE)
        .map(({ mode: _mode, ...namespace }) => namespace),
      ...(linux?.cgroupParent && { cgroupsPath: cgroupsPath(linux.cgroupParent, id) }),
      sysctl: { ...linux?.sysctls },
    },
  };
}

/** As containerd names a pod's cgroup (internal/cri, getCgroupsPath): systemd's form below a slice. */
function cgroupsPath(parent: string, id: string): string {
  const slice = path.basename(parent);
  return slice.endsWith(".slice") ? `${slice}:cri-containerd:${id}` : path.join(parent, id);
}

/** The limits under the names that containerd gives them in a pause container's annotations. */
function sizeAnnotations(
  resources: LinuxContainerResources | undefined,
  overhead: LinuxContainerResources | undefined,
): Record<string, string> {
  const memory = (resources?.memoryLimitInBytes ?? 0n) + (overhead?.memoryLimitInBytes ?? 0n);
  const numbers: Record<string, bigint> = {
    "cpu-period": resources?.cpuPeriod ?? 0n,
    "cpu-quota": resources?.cpuQuota ?? 0n,
    "cpu-shares": resources?.cpuShares ?? 0n,
    // An overhead without a limit of the containers is no limit of the pod.
    memory: (resources?.memoryLimitInBytes ?? 0n) > 0n ? memory : 0n,
  };
  const given = Object.entries(numbers).filter(([, value]) => value !== 0n);
  return Object.fromEntries(
    given.map(([name, value]) => [`io.kubernetes.cri.sandbox-${name}`, String(value)]),
  );
}

/**
 * Writes the pod's /etc/hostname, /etc/hosts and /etc/resolv.conf into `directory`.
 * @returns mounts for every container of the pod that has none of its own there.
 */
export function writePodFiles(directory: string, config: PodSandboxConfig | undefined): OciMount[] {
  const files: Record<string, string> = {
    hostname: `${config?.hostname || os.hostname()}\n`,
    hosts: readHostFile("/etc/hosts"),
    "resolv.conf": resolvConf(config?.dnsConfig) || readHostFile("/etc/resolv.conf"),
  };
  const mounts = Object.entries(files).map(([name, content]): OciMount => {
    const source = path.join(directory, name);
    fs.writeFileSync(source, content, { mode: 0o644 });
    return { destination: `/etc/${name}`, type: "bind", source, options: ["rbind", "rprivate", "rw"] };
  });
  const shm: OciMount = {
    destination: "/dev/shm",
    type: "bind",
    source: "/dev/shm",
    options: ["rbind", "rw"],
  };
  return [...mounts, shm];
}

/** resolv.conf(5) of what the kubelet asks for; empty when it asks for nothing. */
export function resolvConf(dns: DNSConfig | undefined): string {
  if (dns === undefined) return "";
  const lines = [
    ...(dns.searches.length > 0 ? [`search ${dns.searches.join(" ")}`] : []),
    ...dns.servers.map((server) => `nameserver ${server}`),
    ...(dns.options.length > 0 ? [`options ${dns.options.join(" ")}`] : []),
  ];
  return lines.map((line) => `${line}\n`).join("");
}

function readHostFile(file: string): string {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
