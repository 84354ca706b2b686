/** From containerd's Create request to a sandbox: reads the configuration, decides sizes and paths, checks the host. */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { scaledMs } from "../base/timeouts.ts";
import { type Config, checkPaths, loadConfig } from "../config/index.ts";
import { detectAccel } from "../hypervisor/accel.ts";
import type { Accel } from "../hypervisor/hypervisor.ts";
import { containerRole, podIdentity } from "../oci/annotations.ts";
import { refuseHostNamespaces } from "../oci/host-namespaces.ts";
import { type PathKind, rewriteSpec } from "../oci/rewrite.ts";
import type { OciMount, OciSpec } from "../oci/spec.ts";
import type { SandboxIdentity } from "../persist/run-dir.ts";
import { cgroupPlace, type SandboxCgroupInit } from "../resources/cgroup/index.ts";
import type { RootfsMount } from "../resources/share/shared-tree.ts";
import { volumeKind } from "../resources/share/volume-kind.ts";
import { hostMachineDeps } from "../runtime/host-machine.ts";
import { hostSizeLimits } from "../runtime/host-size.ts";
import { type NewContainer, Sandbox, type SandboxObserver } from "../runtime/sandbox.ts";
import { growthLimits, machineSize, podSizeLimits } from "../runtime/sizing.ts";
import { startSize } from "../runtime/start-size.ts";
import { readBundleSpec } from "./bundle.ts";
import type { CreateTask } from "./create-task.ts";
import { removeLeftover } from "./delete.ts";
import type { ShimLog } from "./shim-log.ts";
import type { PreparedSandbox, SandboxRequest } from "./tasks.ts";

export interface SandboxOpenerInit {
  readonly identity: SandboxIdentity;
  readonly runDir: string;
  /** The shim's own socket. */
  readonly socket: string;
  readonly log: ShimLog;
}

/** @returns the function that makes this shim's one sandbox. */
export function sandboxOpener(init: SandboxOpenerInit) {
  return async (request: SandboxRequest, observer: SandboxObserver): Promise<PreparedSandbox> => {
    const { spec } = request;
    refuseHostNamespaces(spec);
    await removeLeftover(init.runDir, init.log);
    const config = await loadConfig({ path: request.configPath, annotations: spec.annotations ?? {} });
    if (config.runtime.enableDebug) init.log.showDebug("everything");
    if (config.agent.enableDebug) init.log.showDebug("agent");
    for (const warning of config.warnings) init.log.warn({}, warning);
    const accel = chooseAccel(config, init.log);
    const paths = checkPaths(config);
    const most = podSizeLimits(spec, hostSizeLimits(config));
    const wanted = machineSize(spec, most);
    const size = startSize({ config, paths, accel }, wanted, most);
    const limits = growthLimits(size, most);
    const netnsPath = networkNamespace(spec);
    const deps = hostMachineDeps(
      {
        name: `caisson-${init.identity.sandboxId}`,
        config,
        paths,
        accel,
        size,
        maxSize: { cpus: limits.maxCpus, memoryMiB: limits.maxMemoryMiB },
        netnsPath,
        log: init.log,
      },
      init.runDir,
    );
    const { namespace, sandboxId, containerdAddress } = init.identity;
    const sandbox = new Sandbox(deps, {
      namespace,
      workspace: {
        dir: init.runDir,
        cgroup: sandboxCgroup(spec, init.log),
        facts: {
          sandbox: sandboxId,
          namespace,
          containerd: containerdAddress,
          bundle: request.bundle,
          socket: init.socket,
          image: fs.realpathSync(config.hypervisor.initrd),
          kernel: fs.realpathSync(config.hypervisor.kernel),
          accel,
          // Which it has with its containers, if not at its start.
          cpus: wanted.cpus,
          memoryMiB: wanted.memoryMiB,
          network: netnsPath === undefined ? "none" : config.runtime.internetworkingModel,
          startedAtMs: Date.now(),
          ...podFacts(spec),
        },
      },
      boot: {
        guest: {
          sandboxId,
          hostname: spec.hostname || os.hostname(), // as in a uts namespace that nobody named
          shmSizeBytes: podShmSize(spec),
          sysctls: podSysctls(spec),
          sharePidNamespace: false,
        },
        guestLogLevel: config.agent.enableDebug ? "debug" : "info",
        helloLimitMs: scaledMs(config.agent.dialTimeout * 1000),
        log: init.log,
      },
      size: { boot: size, limits },
      createLimitMs: scaledMs(config.runtime.createContainerTimeout * 1000),
      single: containerRole(spec.annotations).role === "single",
      observer,
      log: init.log,
    });
    return { sandbox, config, plan: (task) => planContainer(task, config, request.podMounts ?? []) };
  };
}

/** For people who know a sandbox by its pod. */
function podFacts({ annotations }: OciSpec): Record<string, string> {
  const pod = podIdentity(annotations);
  return pod === undefined ? {} : { pod: pod.name, podNamespace: pod.namespace, podUid: pod.uid };
}

/** @throws ERR_SPEC or ERR_UNSUPPORTED naming the part of the spec that cannot be honoured. */
function planContainer(task: CreateTask, config: Config, podMounts: readonly OciMount[]): NewContainer {
  const spec = withMounts(readBundleSpec(task.bundle), podMounts);
  const { id, bundle, stdio } = task;
  if (containerRole(spec.annotations).role === "sandbox") return { id, bundle, stdio, guest: undefined };
  const { spec: guestSpec, ...volumes } = rewriteSpec(spec, {
    containerId: task.id,
    kindOf: pathKind,
    volumeOf: volumeKind,
    bundle: task.bundle,
    disableGuestSeccomp: config.runtime.disableGuestSeccomp,
  });
  const hostCpu = spec.linux?.resources?.cpu;
  const guest = { spec: guestSpec, hostCpu, ...volumes, rootfs: rootfsMounts(task, spec) };
  return { id, bundle, stdio, guest };
}

/**
 * `spec` with those of `mounts` at whose destinations it has none. The private /dev/shm of a default spec gives way:
 * containerd itself puts the pod's in its place.
 */
function withMounts(spec: OciSpec, mounts: readonly OciMount[]): OciSpec {
  if (mounts.length === 0) return spec;
  const own = (spec.mounts ?? []).filter(
    (mount) => !(mount.type === "tmpfs" && path.posix.normalize(mount.destination) === "/dev/shm"),
  );
  const taken = new Set(own.map((mount) => path.posix.normalize(mount.destination)));
  return { ...spec, mounts: [...own, ...mounts.filter((mount) => !taken.has(mount.destination))] };
}

/** CRI-O sends no mounts: its root file system is mounted already, at the spec's root path. */
function rootfsMounts(task: CreateTask, spec: OciSpec): readonly RootfsMount[] {
  if (task.rootfs.length > 0) return task.rootfs;
  const root = spec.root?.path ?? "rootfs";
  const source = root.startsWith("/") ? root : `${task.bundle}/${root}`;
  if (pathKind(source) !== "dir")
    throw new SandboxError("ERR_SPEC", `the root file system ${source} is not a directory`);
  return [{ type: "bind", source, options: ["rbind"] }];
}

function chooseAccel(config: Config, log: Log): Accel {
  if (config.hypervisor.accel !== "auto") return config.hypervisor.accel;
  const { accel, reason } = detectAccel();
  if (accel === "tcg")
    log.warn({}, `no KVM: ${reason}; the guest runs in software emulation, which is many times slower`);
  return accel;
}

/** @throws ERR_SPEC for a cgroup path that makes no sense. */
function sandboxCgroup({ linux }: OciSpec, log: Log): SandboxCgroupInit | undefined {
  const place = cgroupPlace(linux?.cgroupsPath);
  const { cpus = "", mems = "" } = linux?.resources?.cpu ?? {};
  return place && { place, cpuset: { cpus, mems }, log };
}

/** The pod's network namespace; undefined for a new, empty one. */
function networkNamespace(spec: OciSpec): string | undefined {
  const network = (spec.linux?.namespaces ?? []).find((namespace) => namespace.type === "network");
  return network?.path || undefined;
}

/** The pod's kernel parameters. A container without a pod sets its own. */
function podSysctls(spec: OciSpec): Readonly<Record<string, string>> {
  return containerRole(spec.annotations).role === "sandbox" ? (spec.linux?.sysctl ?? {}) : {};
}

/** The size of the pod's /dev/shm on the host, which the guest's own shall have; 0 without a pod. */
function podShmSize(spec: OciSpec): number {
  if (containerRole(spec.annotations).role !== "sandbox") return 0;
  const shm = spec.mounts?.find((mount) => mount.destination === "/dev/shm" && mount.source?.startsWith("/"));
  if (shm?.source === undefined || !fs.existsSync(shm.source)) return 0;
  const { blocks, bsize } = fs.statfsSync(shm.source);
  return blocks * bsize;
}

function pathKind(file: string): PathKind {
  const stat = fs.statSync(file, { throwIfNoEntry: false });
  if (stat === undefined) return "missing";
  if (stat.isDirectory()) return "dir";
  if (stat.isFile()) return "file";
  if (stat.isSocket()) return "socket";
  if (stat.isFIFO()) return "fifo";
  return stat.isBlockDevice() ? "block" : "char";
}
