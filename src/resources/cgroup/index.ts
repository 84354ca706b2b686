export { type CgroupPlace, cgroupPlace } from "./cgroups-path.ts";
export { type CpuQuota, SandboxCgroup, type SandboxCgroupInit } from "./sandbox-cgroup.ts";
