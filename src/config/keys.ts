/**
 * Every key of configuration.toml. The documentation (docs/configuration.md), the shipped file
 * (configs/configuration.toml) and the type of the loaded configuration come from this table.
 *
 * Names and sections are Kata Containers' where the meaning is the same, so that its users can bring their file.
 */
import { bool, choice, integer, type Key, path, strings, text } from "./key.ts";

/** Most vCPUs of one machine: beyond 255 APIC ids a q35 machine needs an interrupt-remapping IOMMU. */
const MAX_VCPUS = 240;
const MAX_MEMORY_MIB = 1024 * 1024;

const hypervisorKeys = {
  path: path({
    kata: true,
    fallback: "",
    doc: "The QEMU program. Empty: the first of /usr/bin/qemu-system-x86_64, /usr/libexec/qemu-kvm and /usr/bin/qemu-kvm.",
  }),
  kernel: path({
    kata: true,
    fallback: "",
    doc: "The guest kernel: an uncompressed vmlinux or a bzImage. Empty: vmlinuz.container in the image directory, which `osbuilder generate` makes.",
  }),
  kernel_format: choice(["auto", "vmlinux", "bzImage"], {
    fallback: "auto",
    doc: "Format of the kernel file. auto reads it from the file.",
  }),
  initrd: path({
    kata: true,
    fallback: "",
    doc: "The guest's initial RAM disk with the agent. Empty: caisson-initrd.img in the image directory.",
  }),
  kernel_params: text({
    kata: true,
    fallback: "",
    pattern: /^[\x20-\x7e]{0,1024}$/,
    allowed: "printable ASCII, at most 1024 characters",
    doc: "Appended to the guest kernel's command line, separated by spaces. Of equal parameters the last wins, so these do.",
  }),
  guest_tracefs: bool({
    annotation: true,
    fallback: false,
    doc: "Give the guest its kernel's trace events (/sys/kernel/tracing), for ftrace, perf and tools of BPF that look tracepoints up there. Kernel 6.1 makes some ten thousand files of them, which costs each guest 9 MiB and time at its start.",
  }),
  firmware: text({
    kata: true,
    fallback: "",
    pattern: /^(|seabios|\/[^\0]*)$/,
    allowed: 'an absolute path, "seabios" or empty',
    doc: "The firmware. Empty: qboot, which starts the kernel soonest, where QEMU brings it, else QEMU's own. seabios: QEMU's own.",
  }),
  machine_type: choice(["q35"], {
    kata: true,
    fallback: "q35",
    doc: "QEMU's machine type.",
  }),
  machine_accelerators: text({
    kata: true,
    fallback: "",
    pattern: /^[A-Za-z0-9_=.,-]*$/,
    allowed: "machine options separated by commas, without spaces",
    doc: 'Further options of the machine, e.g. "smm=off".',
  }),
  cpu_features: text({
    kata: true,
    fallback: "",
    pattern: /^[A-Za-z0-9_=.,+-]*$/,
    allowed: "CPU flags separated by commas, without spaces",
    doc: 'Further flags of the CPU model, e.g. "vmx=off".',
  }),
  accel: choice(["auto", "kvm", "tcg"], {
    fallback: "auto",
    doc: "kvm, or tcg: software emulation, slow but possible anywhere. auto takes kvm where the host can run a stock kernel with it, and warns otherwise.",
  }),
  default_vcpus: integer({
    kata: true,
    annotation: true,
    fallback: 1,
    min: -1,
    max: MAX_VCPUS,
    doc: "vCPUs of a machine before the pod's limits are added. 0 means 1, -1 as many as the host has.",
  }),
  default_maxvcpus: integer({
    kata: true,
    annotation: true,
    fallback: 0,
    min: 0,
    max: MAX_VCPUS,
    doc: "vCPUs to which a machine can grow. 0 means as many as the host has. Each possible vCPU costs the guest some memory.",
  }),
  default_memory: integer({
    kata: true,
    annotation: true,
    fallback: 512,
    min: 64,
    max: MAX_MEMORY_MIB,
    unit: "MiB",
    doc: "Memory of a machine before the pod's limits are added. The host gives it only as the guest uses it.",
  }),
  default_maxmemory: integer({
    kata: true,
    annotation: true,
    fallback: 0,
    min: 0,
    max: MAX_MEMORY_MIB,
    unit: "MiB",
    doc: "Memory to which a machine can grow. 0 means as much as the host has.",
  }),
  enable_hugepages: bool({
    kata: true,
    fallback: false,
    doc: "Take the guest's memory from the host's huge pages, which the administrator must have reserved.",
  }),
  enable_mem_prealloc: bool({
    kata: true,
    fallback: false,
    doc: "Take all of the guest's memory from the host at start.",
  }),
  reclaim_guest_freed_memory: bool({
    kata: true,
    annotation: true,
    fallback: true,
    doc: "Give memory that the guest freed back to the host, by free page reporting of a balloon device.",
  }),
  shared_fs: choice(["virtio-fs"], {
    kata: true,
    fallback: "virtio-fs",
    doc: "How the guest gets the containers' files.",
  }),
  virtio_fs_daemon: path({
    kata: true,
    fallback: "",
    doc: "The virtiofsd program. Empty: the first of /usr/libexec/virtiofsd, /usr/lib/qemu/virtiofsd, /usr/lib/virtiofsd and /usr/bin/virtiofsd.",
  }),
  virtio_fs_daemon_flavour: choice(["auto", "c", "rust"], {
    fallback: "auto",
    doc: "Which virtiofsd that is: the C one of QEMU up to 7.2 or its successor in Rust; their options differ. auto looks into the program; set it for a wrapper script.",
  }),
  virtio_fs_cache: choice(["auto", "always", "metadata", "never"], {
    kata: true,
    annotation: true,
    fallback: "auto",
    doc: "How long the guest may cache names, attributes and data of volumes: auto for a second (data while the file is open), always without limit, metadata all but data (Rust virtiofsd only), never not at all.",
  }),
  virtio_fs_root_cache: choice(["auto", "always", "metadata", "never"], {
    annotation: true,
    fallback: "always",
    doc: "The same for the containers' root file systems, which nobody but the guest changes while it runs. What differs from virtio_fs_cache is served by a virtiofsd of its own.",
  }),
  virtio_fs_queue_size: integer({
    kata: true,
    annotation: true,
    fallback: 1024,
    min: 16,
    max: 1024,
    powerOfTwo: true,
    doc: "Descriptors of the virtio-fs queue.",
  }),
  virtio_fs_extra_args: strings({
    kata: true,
    fallback: [],
    doc: 'Further arguments for virtiofsd, e.g. ["--thread-pool-size=4"].',
  }),
  vsock_backend: choice(["auto", "vhost", "vhost-user"], {
    fallback: "auto",
    doc: "vhost: the host kernel's vhost-vsock. vhost-user: the program vhost-device-vsock, for hosts without it. auto takes vhost where /dev/vhost-vsock can be opened.",
  }),
  vhost_user_vsock_daemon: path({
    fallback: "",
    doc: "The vhost-device-vsock program. Empty: /usr/bin/vhost-device-vsock, /usr/libexec/vhost-device-vsock or the one that came with Caisson.",
  }),
  disable_vhost_net: bool({
    kata: true,
    annotation: true,
    fallback: false,
    doc: "Move network packets in QEMU instead of in the host kernel (vhost-net): slower, but less of the kernel is exposed.",
  }),
  network_queues: integer({
    kata: true,
    annotation: true,
    fallback: 0,
    min: 0,
    max: 16,
    doc: "Queue pairs of each network device. 0 means one per vCPU, at most 8.",
  }),
  pcie_root_port: integer({
    kata: true,
    fallback: 4,
    min: 0,
    max: 16,
    doc: "PCIe ports kept free for devices plugged into a running machine, one device each.",
  }),
  seccompsandbox: text({
    kata: true,
    fallback: "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    pattern: /^(|off|on(,(obsolete|elevateprivileges|spawn|resourcecontrol)=(allow|deny|children))*)$/,
    allowed: 'QEMU\'s -sandbox syntax, "off" or empty',
    doc: "QEMU's system call filter, as for its option -sandbox. Empty and off mean none.",
  }),
  enable_debug: bool({
    kata: true,
    annotation: true,
    fallback: false,
    doc: "Let the guest kernel print its whole log on the console, which the shim keeps.",
  }),
  enable_annotations: strings({
    kata: true,
    fallback: [],
    doc: 'Keys that pods may set by annotation, each a regular expression for the key\'s name ("default_memory") or its section and name ("runtime.enable_debug"). The list of keys that can be named is at the end of the documentation.',
  }),
} as const;

const agentKeys = {
  enable_debug: bool({
    kata: true,
    annotation: true,
    fallback: false,
    doc: "Log the agent's debug messages.",
  }),
  debug_console_enabled: bool({
    kata: true,
    annotation: true,
    fallback: true,
    doc: "Let the host's root open a shell in the guest with `shim exec`. It is reachable only through the sandbox's own socket.",
  }),
  dial_timeout: integer({
    kata: true,
    annotation: true,
    fallback: 60,
    min: 1,
    max: 600,
    unit: "seconds",
    doc: "Time from QEMU's start to the agent's hello before the boot is given up.",
  }),
  kernel_modules: strings({
    kata: true,
    fallback: [],
    doc: 'Kernel modules to load in the guest, each with its parameters: ["nf_nat", "dummy numdummies=2"]. They have to be in the image.',
  }),
} as const;

const runtimeKeys = {
  enable_debug: bool({
    kata: true,
    annotation: true,
    fallback: false,
    doc: "Log the shim's debug messages.",
  }),
  internetworking_model: choice(["tcfilter", "ebpf", "macvtap", "none"], {
    kata: true,
    annotation: true,
    fallback: "tcfilter",
    doc: "How the pod's network interface is joined to the guest's: tcfilter and ebpf redirect every packet between it and a tap, macvtap puts the guest on the interface itself, none gives the guest no network.",
  }),
  port_forward: bool({
    annotation: true,
    fallback: true,
    doc: "Hand TCP connections that are made inside the pod's network namespace, to its localhost or to its own addresses, to the same port in the guest: what kubectl port-forward needs. The kernel must know sk_lookup programs (Linux 5.9).",
  }),
  disable_guest_seccomp: bool({
    kata: true,
    fallback: false,
    doc: "Ignore the containers' seccomp profiles in the guest.",
  }),
  otlp_endpoint: text({
    fallback: "",
    pattern: /^(|none|https?:\/\/[\x21-\x7e]+)$/,
    allowed: 'a URL that begins with http:// or https://, "none" or empty',
    doc: "Collector that gets the shim's and the agent's OpenTelemetry spans by OTLP/HTTP in JSON, e.g. \"http://127.0.0.1:4318\". Empty: what OTEL_EXPORTER_OTLP_ENDPOINT and its like in containerd's environment say. none: no spans in any case.",
  }),
  stats_format: choice(["auto", "v1", "v2"], {
    annotation: true,
    fallback: "auto",
    doc: "The cgroup version whose metrics message containerd gets for a container. auto: that of the host, which is what containerd's exporter takes; hosts with both count as v1. The guest has version 2, whose figures are put in the fields of version 1 where there is one.",
  }),
  create_container_timeout: integer({
    kata: true,
    annotation: true,
    fallback: 60,
    min: 1,
    max: 3600,
    unit: "seconds",
    doc: "Limit of one container creation in the guest.",
  }),
} as const;

const factoryKeys = {
  enable_template: bool({
    kata: true,
    annotation: true,
    fallback: true,
    doc: "Start machines from a saved guest that has booted already, where `shim factory init` has made one for such machines. It is sooner ready and needs less of the host's memory. All guests of a template have their kernel at the same addresses.",
  }),
  template_path: path({
    kata: true,
    fallback: "",
    doc: "Where templates are kept: some 50 MB each. Empty: templates in the image directory.",
  }),
} as const;

const imageKeys = {
  dir: path({
    fallback: "/var/cache/caisson",
    doc: "Where `osbuilder generate` keeps the guest images and the links caisson-initrd.img and vmlinuz.container.",
  }),
} as const;

/** A section of the file: its name in TOML, its other accepted name, its keys. */
export interface Section {
  readonly table: string;
  /** Name under which Kata Containers has it. */
  readonly alias?: string;
  readonly doc: string;
  readonly keys: Readonly<Record<string, Key<unknown>>>;
}

export const sections = {
  hypervisor: {
    table: "hypervisor.qemu",
    doc: "The virtual machine of a pod.",
    keys: hypervisorKeys,
  },
  agent: {
    table: "agent.caisson",
    alias: "agent.kata",
    doc: "The agent in the guest.",
    keys: agentKeys,
  },
  runtime: { table: "runtime", doc: "The shim.", keys: runtimeKeys },
  factory: { table: "factory", doc: "Templates of booted guests.", keys: factoryKeys },
  image: { table: "image", doc: "The guest images.", keys: imageKeys },
} as const satisfies Record<string, Section>;

export type SectionName = keyof typeof sections;
export const sectionNames = Object.keys(sections) as readonly SectionName[];

/** default_memory becomes defaultMemory. */
export type CamelCase<Name extends string> = Name extends `${infer First}_${infer Rest}`
  ? `${First}${Capitalize<CamelCase<Rest>>}`
  : Name;

export function camelCase<Name extends string>(name: Name): CamelCase<Name> {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase()) as CamelCase<Name>;
}

type Values<Keys> = {
  readonly [Name in keyof Keys & string as CamelCase<Name>]: Keys[Name] extends Key<infer Value>
    ? Value
    : never;
};

/** The values of all keys, named as in the file but in camel case; units are those of the documentation. */
export type ConfigValues = { readonly [Name in SectionName]: Values<(typeof sections)[Name]["keys"]> };
