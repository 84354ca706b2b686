/**
 * Keys of Kata Containers' configuration file that have no meaning here. They are passed over with a warning, so that a
 * file that works there works here; a value that asks for what is the case anyway is passed over in silence.
 */

export interface IgnoredKey {
  readonly reason: string;
  /** Values that change nothing. */
  readonly silent?: readonly unknown[];
}

const blockDevices = "containers' root file systems are shared by virtio-fs";
const hotplug = "device assignment (VFIO) is not offered";
const tracing = "spans go to a collector of OpenTelemetry: see the key otlp_endpoint in [runtime]";
const nothing: readonly unknown[] = [false, "", 0];

function ignored(reason: string, silent: readonly unknown[] = nothing): IgnoredKey {
  return { reason, silent };
}

/** By TOML table and key. */
export const ignoredKataKeys: Readonly<Record<string, Readonly<Record<string, IgnoredKey>>>> = {
  "hypervisor.qemu": {
    image: ignored("the guest boots from an initrd; see the keys initrd and kernel"),
    rootfs_type: ignored("the guest boots from an initrd", ["ext4", "xfs", "erofs", ""]),
    confidential_guest: ignored("confidential guests are not offered"),
    sev_snp_guest: ignored("confidential guests are not offered"),
    rootless: ignored("QEMU runs as root inside its own system call filter"),
    valid_hypervisor_paths: ignored("paths can never be set by annotation", []),
    valid_virtio_fs_daemon_paths: ignored("paths can never be set by annotation", []),
    valid_vhost_user_store_paths: ignored("paths can never be set by annotation", []),
    valid_file_mem_backends: ignored("paths can never be set by annotation", []),
    valid_entropy_sources: ignored("paths can never be set by annotation", []),
    firmware_volume: ignored("split firmware is not offered"),
    default_bridges: ignored("devices are plugged into PCIe root ports; see pcie_root_port", [0, 1]),
    memory_offset: ignored("NVDIMM devices are not offered"),
    enable_virtio_mem: ignored("memory is always added by virtio-mem", [true]),
    memory_slots: ignored("memory can be added any number of times", [10]),
    disable_block_device_use: ignored(blockDevices, [true, false]),
    block_device_driver: ignored(blockDevices, ["virtio-scsi", "virtio-blk", ""]),
    block_device_aio: ignored(blockDevices, ["threads", "native", "io_uring", ""]),
    block_device_cache_set: ignored(blockDevices),
    block_device_cache_direct: ignored(blockDevices),
    block_device_cache_noflush: ignored(blockDevices),
    enable_iothreads: ignored(blockDevices),
    indep_iothreads: ignored(blockDevices),
    virtio_fs_cache_size: ignored("the DAX window is not offered"),
    virtio_fs_inode_file_handles: ignored("the Rust virtiofsd always prefers file handles", ["prefer"]),
    enable_vhost_user_store: ignored("vhost-user storage is not offered"),
    vhost_user_store_path: ignored("vhost-user storage is not offered", [
      "/var/run/kata-containers/vhost-user",
    ]),
    vhost_user_reconnect_timeout_sec: ignored("vhost-user storage is not offered"),
    enable_iommu: ignored("a virtual IOMMU is not offered"),
    enable_iommu_platform: ignored("a virtual IOMMU is not offered"),
    file_mem_backend: ignored("guest memory is always a shared memfd"),
    pflashes: ignored("flash devices are not offered", [[]]),
    extra_monitor_socket: ignored("QMP is reachable by the shim alone"),
    disable_nesting_checks: ignored("there are no nesting checks to disable", [true, false]),
    msize_9p: ignored("9p is not offered", [8192]),
    disable_image_nvdimm: ignored("the guest boots from an initrd", [true, false]),
    hot_plug_vfio: ignored(hotplug, ["no-port"]),
    cold_plug_vfio: ignored(hotplug, ["no-port"]),
    entropy_source: ignored("the guest's entropy always comes from /dev/urandom", ["/dev/urandom"]),
    guest_hook_path: ignored("hooks in the guest are not offered"),
    rx_rate_limiter_max_rate: ignored("rate limits belong to the CNI plugin (bandwidth)"),
    tx_rate_limiter_max_rate: ignored("rate limits belong to the CNI plugin (bandwidth)"),
    guest_memory_dump_path: ignored("memory dumps are not offered"),
    guest_memory_dump_paging: ignored("memory dumps are not offered"),
    enable_guest_swap: ignored("swap in the guest is not offered"),
    use_legacy_serial: ignored("the console is always a serial port", [true, false]),
    disable_selinux: ignored("SELinux labels are not set", [true, false]),
    disable_guest_selinux: ignored("SELinux labels are not set", [true, false]),
    enable_numa: ignored("NUMA topologies are not offered"),
    overhead_vcpus: ignored("the base size is default_vcpus"),
    overhead_memory: ignored("the base size is default_memory"),
  },
  "agent.caisson": {
    enable_tracing: ignored(tracing),
    cdh_api_timeout: ignored("confidential guests are not offered", [50]),
  },
  runtime: {
    enable_vcpus_pinning: ignored("vCPU pinning is not offered"),
    guest_selinux_label: ignored("SELinux labels are not set"),
    enable_tracing: ignored(tracing),
    jaeger_endpoint: ignored(tracing),
    jaeger_user: ignored(tracing),
    jaeger_password: ignored(tracing),
    disable_new_netns: ignored("QEMU runs in the pod's network namespace"),
    sandbox_cgroup_only: ignored("all processes of a pod are always in the pod's own cgroup", [true]),
    static_sandbox_resource_mgmt: ignored(
      "a machine is sized when its pod is made, and grows when that is not enough",
      [true, false],
    ),
    sandbox_bind_mounts: ignored("bind mounts into every guest are not offered", [[]]),
    vfio_mode: ignored(hotplug, ["guest-kernel", "vfio"]),
    disable_guest_empty_dir: ignored("emptyDir volumes are shared from the host", [true, false]),
    emptydir_mode: ignored("emptyDir volumes are shared from the host", ["shared-fs"]),
    experimental: ignored("there are no experimental features", [[]]),
    enable_pprof: ignored("there is no pprof"),
    dan_conf: ignored("directly attachable networks are not offered", ["/run/kata-containers/dans"]),
  },
  factory: {
    vm_cache_number: ignored("machines are not started ahead of their pods", [0]),
    vm_cache_endpoint: ignored("machines are not started ahead of their pods"),
  },
};

/** Tables of Kata's file that have no meaning here as a whole. */
export const ignoredKataTables: Readonly<Record<string, string>> = {
  netmon: "the shim itself sees changes of the pod's interfaces",
};
