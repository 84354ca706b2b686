/**
 * Devices of a container's spec. A block device of the host becomes a disk of the machine; a character device can only be
 * one that the guest's kernel has itself, under the same numbers. Pure.
 */
import { SandboxError } from "../base/errors.ts";
import type { OciDevice, OciDeviceRule, OciSpec } from "./spec.ts";

/** A device of the spec that is to be plugged into the machine; its numbers are then those of the guest. */
export interface BlockPlan {
  readonly deviceIndex: number;
  /** The rules that name it. */
  readonly ruleIndexes: readonly number[];
  /** Numbers on the host. */
  readonly major: number;
  readonly minor: number;
  readonly readonly: boolean;
  /** Where the container sees it; for messages. */
  readonly path: string;
}

/**
 * Character devices with the same numbers under every Linux (Documentation/admin-guide/devices.txt): memory devices,
 * terminals, and of the miscellaneous ones /dev/fuse, /dev/net/tun and /dev/kvm.
 */
const GUEST_MAJORS = new Set([1, 5, 136]);
const MISC_MAJOR = 10;
const GUEST_MISC_MINORS = new Set([229, 200, 232]);

const isGuestOwn = ({ major = -1, minor = -1 }: OciDevice): boolean =>
  GUEST_MAJORS.has(major) || (major === MISC_MAJOR && GUEST_MISC_MINORS.has(minor));

const isNull = ({ type, major, minor }: OciDevice): boolean => type === "c" && major === 1 && minor === 3;
const allowsAll = ({ allow = false, type = "a", major = -1, minor = -1 }: OciDeviceRule): boolean =>
  allow && type === "a" && major < 0 && minor < 0;

/**
 * `spec` without the list of all of the host's devices that clients add for a privileged container. Such a list names
 * /dev/null, which nobody asks for by name since every container has it. Privileged means in a virtual machine: privileged
 * over the guest's devices, which the container gets by the rule that allows all; a disk of the host is not among them.
 */
export function withoutHostDevices(spec: OciSpec): OciSpec {
  const { devices = [], resources } = spec.linux ?? {};
  if (!devices.some(isNull) || !(resources?.devices ?? []).some(allowsAll)) return spec;
  return { ...spec, linux: { ...spec.linux, devices: devices.filter(isGuestOwn) } };
}

/** @throws ERR_UNSUPPORTED naming a device that a virtual machine cannot have. */
export function planDevices(spec: OciSpec): BlockPlan[] {
  const rules = spec.linux?.resources?.devices ?? [];
  const plans: BlockPlan[] = [];
  for (const [deviceIndex, device] of (spec.linux?.devices ?? []).entries()) {
    if (device.type === "p" || (device.type !== "b" && isGuestOwn(device))) continue;
    if (device.type !== "b") {
      throw new SandboxError(
        "ERR_UNSUPPORTED",
        `the host's device ${device.path} cannot be used in a virtual machine: a guest has the devices of its own kernel and block devices`,
      );
    }
    plans.push(blockPlan(device, deviceIndex, rules));
  }
  return plans;
}

function blockPlan(device: OciDevice, deviceIndex: number, rules: readonly OciDeviceRule[]): BlockPlan {
  const { major = 0, minor = 0, path } = device;
  const named = rules
    .map((rule, index) => ({ rule, index }))
    .filter(({ rule }) => rule.type === "b" && rule.major === major && rule.minor === minor);
  const writable = named.length === 0 || named.some(({ rule }) => (rule.access ?? "rwm").includes("w"));
  return {
    deviceIndex,
    ruleIndexes: named.map(({ index }) => index),
    major,
    minor,
    readonly: !writable,
    path,
  };
}

/** `spec` with the guest's numbers of the devices that `plans` names. */
export function withGuestDevices(
  spec: OciSpec,
  plans: readonly BlockPlan[],
  numbers: readonly { readonly major: number; readonly minor: number }[],
): OciSpec {
  if (plans.length === 0 || spec.linux === undefined) return spec;
  const devices = [...(spec.linux.devices ?? [])];
  const rules = [...(spec.linux.resources?.devices ?? [])];
  for (const [index, { deviceIndex, ruleIndexes }] of plans.entries()) {
    const own = numbers[index];
    const device = devices[deviceIndex];
    if (own === undefined || device === undefined) continue;
    devices[deviceIndex] = { ...device, ...own };
    for (const ruleIndex of ruleIndexes) rules[ruleIndex] = { ...rules[ruleIndex], ...own };
  }
  const resources = { ...spec.linux.resources, devices: rules };
  return { ...spec, linux: { ...spec.linux, devices, resources } };
}
