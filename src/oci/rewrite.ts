/**
 * Turns a container's OCI spec for the host into the one the guest's agent executes, and says which host paths must
 * be shared for it. Pure: the caller looks at the file system and does the mounting.
 */
import { SandboxError } from "../base/errors.ts";
import { containerRole } from "./annotations.ts";
import { type BlockPlan, planDevices, withoutHostDevices } from "./devices.ts";
import type { OciMount, OciNamespace, OciSpec } from "./spec.ts";

export type PathKind = "dir" | "file" | "socket" | "char" | "block" | "fifo" | "missing";

/** What a volume is besides files to share. */
export type VolumeKind =
  | { readonly kind: "plain" }
  /** Files that the kubelet replaces all at once behind the link `..data`: ConfigMap, Secret, projected volumes. */
  | { readonly kind: "atomic" }
  /** An emptyDir in memory, or a directory of one. */
  | { readonly kind: "memory"; readonly volume: MemoryVolume }
  /** An emptyDir of huge pages. */
  | { readonly kind: "hugepages" };

/** A file system in memory that the containers of a pod share. */
export interface MemoryVolume {
  /** The same for the same volume. */
  readonly identity: string;
  /** Directory of the volume that is mounted; empty for all of it. */
  readonly subPath: string;
  readonly sizeBytes: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** One host path to be bind-mounted into the shared tree. */
export interface BindPlan {
  /** Which of the spec's mounts gets its source from it. */
  readonly mountIndex: number;
  readonly source: string;
  readonly kind: "dir" | "file";
  /** "ro" for the mount itself, "rro" for those below it too; undefined for writable. */
  readonly readonly: "ro" | "rro" | undefined;
  /** Take submounts along (`rbind`). */
  readonly recursive: boolean;
  /** The guest has a copy of its own that follows the original; only of what the container may not write. */
  readonly copied: boolean;
  /** Where the container sees it; for messages. */
  readonly destination: string;
}

/** A mount of the spec whose files are in the guest's memory. */
export interface MemoryPlan {
  readonly mountIndex: number;
  readonly volume: MemoryVolume;
}

export interface RewriteInput {
  readonly containerId: string;
  readonly kindOf: (path: string) => PathKind;
  readonly volumeOf: (path: string) => VolumeKind;
  /** Directory that relative bind sources are relative to: the bundle. */
  readonly bundle: string;
  readonly disableGuestSeccomp: boolean;
}

/**
 * The sources of the mounts that `binds` and `memory` name are to be filled in by whoever makes those. The root has no
 * path: the guest is told apart.
 */
export interface RewriteResult {
  readonly spec: OciSpec;
  readonly binds: readonly BindPlan[];
  readonly memory: readonly MemoryPlan[];
  readonly blocks: readonly BlockPlan[];
}

/** Sources below these come from the guest's own kernel; the host's are never shared. */
const GUEST_OWNED = ["/proc", "/sys", "/dev"] as const;
/** Namespaces the guest makes for the container; the network namespace is the guest itself. */
const GUEST_NAMESPACES = new Set(["pid", "mount", "ipc", "uts", "cgroup"]);

/** Any path of a pid namespace means to the guest: that of another container of the pod (docs/containers.md). */
const SHARED_PID_PATH = "pod";

/** @throws ERR_SPEC or ERR_UNSUPPORTED naming the part of the spec that cannot be honoured. */
export function rewriteSpec(given: OciSpec, input: RewriteInput): RewriteResult {
  const spec = withoutHostDevices(given);
  if (spec.process === undefined) throw new SandboxError("ERR_SPEC", "config.json has no process");
  if (spec.linux?.uidMappings?.length || spec.linux?.gidMappings?.length) {
    throw new SandboxError(
      "ERR_UNSUPPORTED",
      "user namespaces are not supported: the container's user mappings would be lost in the guest",
    );
  }
  const plans: Plans = { binds: [], memory: [] };
  const mounts = (spec.mounts ?? []).map((mount, index) => rewriteMount(mount, index, input, plans));
  const { hooks: _hooks, linux, process, ...rest } = spec;
  const { apparmorProfile: _apparmor, selinuxLabel: _selinux, ...guestProcess } = process;
  const result: OciSpec = {
    ...rest,
    process: guestProcess,
    root: { ...spec.root, path: "" },
    mounts,
  };
  const inPod = containerRole(spec.annotations).role === "container";
  if (linux !== undefined) result.linux = rewriteLinux(linux, input, inPod);
  return { spec: result, ...plans, blocks: planDevices(spec) };
}

interface Plans {
  readonly binds: BindPlan[];
  readonly memory: MemoryPlan[];
}

const isBind = (mount: OciMount): boolean =>
  mount.type === "bind" || (mount.options ?? []).some((option) => option === "bind" || option === "rbind");

const isBelow = (path: string, parent: string): boolean => path === parent || path.startsWith(`${parent}/`);

function rewriteMount(mount: OciMount, mountIndex: number, input: RewriteInput, plans: Plans): OciMount {
  if (!isBind(mount)) return mount;
  const options = mount.options ?? [];
  const shared = options.find((option) => option === "shared" || option === "rshared");
  if (shared !== undefined) {
    throw new SandboxError(
      "ERR_UNSUPPORTED",
      `mount of ${mount.destination}: ${shared} (bidirectional) propagation cannot cross into a virtual machine; use private or rslave`,
    );
  }
  // Every container of the pod shares the guest's own /dev/shm (sized from the host's).
  if (mount.destination === "/dev/shm") return { ...mount, type: "bind", source: "/dev/shm" };
  const source = absoluteSource(mount, input.bundle);
  if (GUEST_OWNED.some((owned) => isBelow(source, owned))) return guestOwnedBind(mount, source);
  const kind = shareableKind(mount, source, input.kindOf(source));
  const volume = input.volumeOf(source);
  if (volume.kind === "hugepages") {
    throw new SandboxError(
      "ERR_UNSUPPORTED",
      `mount of ${mount.destination}: an emptyDir of huge pages is not supported in a virtual machine`,
    );
  }
  if (volume.kind === "memory") plans.memory.push({ mountIndex, volume: volume.volume });
  else plans.binds.push(bindPlan(mount, mountIndex, source, kind, volume.kind === "atomic"));
  return { ...mount, source: "" };
}

function bindPlan(
  { destination, options = [] }: OciMount,
  mountIndex: number,
  source: string,
  kind: "dir" | "file",
  atomic: boolean,
): BindPlan {
  const readonly = options.includes("rro") ? "rro" : options.includes("ro") ? "ro" : undefined;
  // What is written into a copy would be nowhere else, and the agent would have to mistrust it.
  const copied = atomic && readonly !== undefined;
  return { mountIndex, source, kind, readonly, recursive: options.includes("rbind"), copied, destination };
}

function absoluteSource(mount: OciMount, bundle: string): string {
  const source = mount.source ?? "";
  if (source === "") throw new SandboxError("ERR_SPEC", `bind mount of ${mount.destination} has no source`);
  return source.startsWith("/") ? source : `${bundle}/${source}`;
}

function guestOwnedBind(mount: OciMount, source: string): OciMount {
  if (isBelow(source, "/dev") && source !== "/dev") {
    throw new SandboxError(
      "ERR_UNSUPPORTED",
      `mount of ${mount.destination}: the host's ${source} cannot be used in a virtual machine; devices come from the guest's kernel`,
    );
  }
  return { ...mount, source };
}

function shareableKind(mount: OciMount, source: string, kind: PathKind): "dir" | "file" {
  if (kind === "dir" || kind === "file") return kind;
  if (kind === "missing") {
    throw new SandboxError("ERR_SPEC", `mount of ${mount.destination}: the source ${source} does not exist`);
  }
  const what = { socket: "unix socket", char: "character device", block: "block device", fifo: "named pipe" }[
    kind
  ];
  throw new SandboxError(
    "ERR_UNSUPPORTED",
    `mount of ${mount.destination}: ${source} is a ${what} of the host's kernel and cannot be used in a virtual machine`,
  );
}

function rewriteLinux(
  linux: NonNullable<OciSpec["linux"]>,
  input: RewriteInput,
  inPod: boolean,
): NonNullable<OciSpec["linux"]> {
  const { seccomp, mountLabel: _label, resources, namespaces, ...rest } = linux;
  const guest: NonNullable<OciSpec["linux"]> = {
    ...rest,
    namespaces: (namespaces ?? [])
      .filter((namespace: OciNamespace) => GUEST_NAMESPACES.has(namespace.type))
      .map(({ type, path }) =>
        inPod && type === "pid" && path ? { type, path: SHARED_PID_PATH } : { type },
      ),
    cgroupsPath: `/${input.containerId}`,
  };
  if (resources !== undefined) guest.resources = guestResources(resources);
  if (seccomp !== undefined && !input.disableGuestSeccomp) guest.seccomp = seccomp;
  return guest;
}

/** Limits that name host cpus, host block devices or host traffic classes mean nothing in the guest. */
export function guestResources(resources: NonNullable<NonNullable<OciSpec["linux"]>["resources"]>) {
  const { blockIO: _block, network: _network, rdma: _rdma, ...guest } = resources;
  if (guest.cpu !== undefined && guest.cpu !== null) {
    const { cpus: _cpus, mems: _mems, ...cpu } = guest.cpu;
    guest.cpu = cpu;
  }
  return guest;
}
