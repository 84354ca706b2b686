/**
 * The parts of the OCI runtime specification (config.json, v1.0 to v1.2, config.md and config-linux.md) that the guest
 * executes. Parts that belong to the host (hooks, annotations, network namespace) or that mean nothing in a guest
 * (labels of its security modules) are not read.
 */
import {
  cString,
  cStrings,
  type Decoded,
  decodeJson,
  flag,
  int64,
  integer,
  list,
  mapOf,
  object,
  optional,
  text,
  texts,
  uint32,
  withDefault,
} from "./decode.ts";

const user = object({
  uid: withDefault(uint32, 0),
  gid: withDefault(uint32, 0),
  umask: optional(uint32),
  additionalGids: list(uint32),
});

const capabilities = object({
  bounding: cStrings,
  effective: cStrings,
  permitted: cStrings,
  inheritable: cStrings,
  ambient: cStrings,
});
export type CapabilitySpec = Decoded<typeof capabilities>;

const rlimit = object({ type: text, soft: int64, hard: int64 });
export type RlimitSpec = Decoded<typeof rlimit>;

const scheduler = object({
  policy: text,
  nice: withDefault(integer, 0),
  priority: withDefault(integer, 0),
  flags: texts,
  runtime: withDefault(int64, 0n),
  deadline: withDefault(int64, 0n),
  period: withDefault(int64, 0n),
});
export type SchedulerSpec = Decoded<typeof scheduler>;

const ioPriority = object({ class: text, priority: withDefault(integer, 0) });
export type IoPrioritySpec = Decoded<typeof ioPriority>;

const processSpec = object({
  terminal: withDefault(flag, false),
  consoleSize: optional(object({ height: uint32, width: uint32 })),
  user: withDefault(user, { uid: 0, gid: 0, umask: undefined, additionalGids: [] }),
  args: cStrings,
  env: cStrings,
  cwd: withDefault(cString, "/"),
  capabilities: optional(capabilities),
  rlimits: list(rlimit),
  noNewPrivileges: withDefault(flag, false),
  oomScoreAdj: optional(integer),
  scheduler: optional(scheduler),
  ioPriority: optional(ioPriority),
  apparmorProfile: withDefault(text, ""),
  selinuxLabel: withDefault(text, ""),
});
export type ProcessSpec = Decoded<typeof processSpec>;

const mount = object({
  destination: cString,
  type: withDefault(cString, ""),
  source: withDefault(cString, ""),
  options: cStrings,
});
export type MountSpec = Decoded<typeof mount>;

const device = object({
  path: cString,
  type: text,
  major: withDefault(integer, 0),
  minor: withDefault(integer, 0),
  fileMode: optional(uint32),
  uid: withDefault(uint32, 0),
  gid: withDefault(uint32, 0),
});
export type DeviceSpec = Decoded<typeof device>;

const deviceRule = object({
  allow: flag,
  type: withDefault(text, "a"),
  major: optional(integer),
  minor: optional(integer),
  access: withDefault(text, "rwm"),
});
export type DeviceRule = Decoded<typeof deviceRule>;

const throttle = list(object({ major: uint32, minor: uint32, rate: int64 }));
export type ThrottleSpec = Decoded<typeof throttle>;

const resources = object({
  devices: list(deviceRule),
  memory: optional(object({ limit: optional(int64), reservation: optional(int64), swap: optional(int64) })),
  cpu: optional(
    object({
      shares: optional(int64),
      quota: optional(int64),
      burst: optional(int64),
      period: optional(int64),
      cpus: withDefault(text, ""),
      mems: withDefault(text, ""),
      idle: optional(int64),
    }),
  ),
  pids: optional(object({ limit: optional(int64) })),
  blockIO: optional(
    object({
      weight: optional(integer),
      throttleReadBpsDevice: throttle,
      throttleWriteBpsDevice: throttle,
      throttleReadIOPSDevice: throttle,
      throttleWriteIOPSDevice: throttle,
    }),
  ),
  hugepageLimits: list(object({ pageSize: text, limit: int64 })),
  unified: mapOf(text),
});
export type ResourceSpec = Decoded<typeof resources>;

const seccompArgument = object({
  index: uint32,
  value: int64,
  valueTwo: withDefault(int64, 0n),
  op: text,
});
export type SeccompArgument = Decoded<typeof seccompArgument>;

const seccomp = object({
  defaultAction: text,
  defaultErrnoRet: optional(uint32),
  architectures: texts,
  flags: texts,
  listenerPath: withDefault(text, ""),
  syscalls: list(
    object({ names: texts, action: text, errnoRet: optional(uint32), args: list(seccompArgument) }),
  ),
});
export type SeccompSpec = Decoded<typeof seccomp>;

const linux = object({
  namespaces: list(object({ type: text, path: withDefault(text, "") })),
  devices: list(device),
  resources: optional(resources),
  rootfsPropagation: withDefault(text, ""),
  seccomp: optional(seccomp),
  sysctl: mapOf(cString),
  maskedPaths: cStrings,
  readonlyPaths: cStrings,
  personality: optional(object({ domain: text, flags: texts })),
});
export type LinuxSpec = Decoded<typeof linux>;

const spec = object({
  process: processSpec,
  root: optional(object({ readonly: withDefault(flag, false) })),
  hostname: withDefault(cString, ""),
  domainname: withDefault(cString, ""),
  mounts: list(mount),
  linux: withDefault(linux, linux({})),
});
export type ContainerSpec = Decoded<typeof spec>;

/** @throws ERR_SPEC naming the key that has the wrong shape. */
export function decodeContainerSpec(json: string): ContainerSpec {
  return decodeJson(json, spec, "the OCI spec", "");
}

/** The `process` object of an exec. @throws ERR_SPEC */
export function decodeProcessSpec(json: string): ProcessSpec {
  return decodeJson(json, processSpec, "the process of the exec", "process");
}

/** A `linux.resources` object. @throws ERR_SPEC */
export function decodeResources(json: string): ResourceSpec {
  return decodeJson(json, resources, "the resources", "linux.resources");
}
