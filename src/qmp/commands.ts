/** Types of the QMP commands and events that we use; shapes as in QEMU's qapi/*.json, valid for QEMU 7.2 to 10. */
import type { JsonObject } from "./messages.ts";

/** Arguments and answer of a command. */
export interface QmpCommands {
  "query-status": { args: undefined; result: { readonly status: RunState; readonly running: boolean } };
  "query-version": { args: undefined; result: JsonObject };
  "query-kvm": { args: undefined; result: { readonly enabled: boolean; readonly present: boolean } };
  "query-cpus-fast": { args: undefined; result: readonly CpuInfo[] };
  "query-hotpluggable-cpus": { args: undefined; result: readonly HotpluggableCpu[] };
  "query-memory-size-summary": {
    args: undefined;
    result: { readonly "base-memory": number; readonly "plugged-memory"?: number };
  };
  "query-memory-devices": { args: undefined; result: readonly JsonObject[] };
  stop: { args: undefined; result: JsonObject };
  cont: { args: undefined; result: JsonObject };
  quit: { args: undefined; result: JsonObject };
  "migrate-set-capabilities": {
    args: { readonly capabilities: readonly { readonly capability: string; readonly state: boolean }[] };
    result: JsonObject;
  };
  /** Bytes per second. */
  "migrate-set-parameters": { args: { readonly "max-bandwidth": number }; result: JsonObject };
  migrate: { args: { readonly uri: string }; result: JsonObject };
  "query-migrate": { args: undefined; result: { readonly "error-desc"?: string } };
  "migrate-incoming": { args: { readonly uri: string }; result: JsonObject };
  system_powerdown: { args: undefined; result: JsonObject };
  /** Takes the descriptor that comes with the message (SCM_RIGHTS) and names it. */
  getfd: { args: { readonly fdname: string }; result: JsonObject };
  closefd: { args: { readonly fdname: string }; result: JsonObject };
  "object-add": {
    args: { readonly "qom-type": string; readonly id: string } & JsonObject;
    result: JsonObject;
  };
  "object-del": { args: { readonly id: string }; result: JsonObject };
  "chardev-add": { args: { readonly id: string; readonly backend: JsonObject }; result: JsonObject };
  netdev_add: { args: { readonly type: string; readonly id: string } & JsonObject; result: JsonObject };
  netdev_del: { args: { readonly id: string }; result: JsonObject };
  device_add: { args: { readonly driver: string; readonly id?: string } & JsonObject; result: JsonObject };
  device_del: { args: { readonly id: string }; result: JsonObject };
  "blockdev-add": {
    args: { readonly driver: string; readonly "node-name": string } & JsonObject;
    result: JsonObject;
  };
  "blockdev-del": { args: { readonly "node-name": string }; result: JsonObject };
  "qom-get": { args: { readonly path: string; readonly property: string }; result: unknown };
  "qom-set": {
    args: { readonly path: string; readonly property: string; readonly value: unknown };
    result: JsonObject;
  };
  "qom-list": {
    args: { readonly path: string };
    result: readonly { readonly name: string; readonly type: string }[];
  };
}

/** Run states that we meet (qapi/run-state.json). */
export type RunState =
  | "running"
  | "paused"
  | "shutdown"
  | "guest-panicked"
  | "internal-error"
  | "io-error"
  | "prelaunch"
  | "suspended"
  | "watchdog";

export interface CpuInfo {
  readonly "cpu-index": number;
  /** Host thread of the vCPU, for pinning and accounting. */
  readonly "thread-id": number;
  readonly "qom-path": string;
}

export interface HotpluggableCpu {
  /** The `driver` for device_add. */
  readonly type: string;
  readonly "vcpus-count": number;
  /** Further properties for device_add. */
  readonly props: JsonObject;
  /** Present when the CPU is plugged. */
  readonly "qom-path"?: string;
}

/** Data of the events that we act on. */
export interface QmpEvents {
  SHUTDOWN: { readonly guest: boolean; readonly reason: string };
  RESET: { readonly guest: boolean; readonly reason: string };
  POWERDOWN: JsonObject;
  STOP: JsonObject;
  RESUME: JsonObject;
  /** Only with the migration capability "events". */
  MIGRATION: { readonly status: string };
  GUEST_PANICKED: { readonly action: string };
  /** Sent twice for a virtio device: once for its inner part, with `path` alone, once with `device`. */
  DEVICE_DELETED: { readonly device?: string; readonly path: string };
  DEVICE_UNPLUG_GUEST_ERROR: { readonly device?: string; readonly path: string };
  ACPI_DEVICE_OST: {
    readonly info: {
      readonly device?: string;
      readonly slot: string;
      readonly source: number;
      readonly status: number;
    };
  };
}
