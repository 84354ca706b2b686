/** Capability sets of the spec. Pure. */
import type { CapabilitySpec } from "./oci-spec.ts";

/** linux/capability.h: the position is the number. */
const NAMES = (
  "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE " +
  "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN " +
  "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE " +
  "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split(" ");
/** Wont to be there in a spec, not required. */
const PREFIX = "CAP_";

/** The names, as a spec has them, of the capabilities in a set. */
export const capabilityNames = (set: bigint): readonly string[] =>
  NAMES.filter((_, number) => has(set, number)).map((name) => PREFIX + name);

/** Bit n is capability n. */
export interface CapabilitySets {
  readonly bounding: bigint;
  readonly effective: bigint;
  readonly permitted: bigint;
  readonly inheritable: bigint;
  readonly ambient: bigint;
}

const EMPTY = { bounding: [], effective: [], permitted: [], inheritable: [], ambient: [] } as const;

/**
 * The sets that `spec` names; absent means none at all. Names that this table does not know are left out, as the spec
 * asks: a newer engine may name capabilities of a newer kernel.
 */
export function capabilitySets(spec: CapabilitySpec | undefined): CapabilitySets {
  const { bounding, effective, permitted, inheritable, ambient } = spec ?? EMPTY;
  return {
    bounding: mask(bounding),
    effective: mask(effective),
    permitted: mask(permitted),
    inheritable: mask(inheritable),
    ambient: mask(ambient),
  };
}

/** By the names with a NUL, which none has, between them: the sets of a process are mostly the same, and the next one's too. */
const masks = new Map<string, bigint>();
const MAX_MASKS = 16;

function mask(names: readonly string[]): bigint {
  if (names.length === 0) return 0n;
  const key = names.join("\0");
  const known = masks.get(key);
  if (known !== undefined) return known;
  if (masks.size === MAX_MASKS) masks.clear();
  const bits = bitsOf(names);
  masks.set(key, bits);
  return bits;
}

function bitsOf(names: readonly string[]): bigint {
  let bits = 0n;
  for (const name of names) {
    const number = NAMES.indexOf(name.startsWith(PREFIX) ? name.slice(PREFIX.length) : name);
    if (number >= 0) bits |= 1n << BigInt(number);
  }
  return bits;
}

/** True when the set has capability `number`. */
const has = (set: bigint, number: number): boolean => ((set >> BigInt(number)) & 1n) === 1n;
