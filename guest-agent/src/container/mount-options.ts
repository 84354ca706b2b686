/**
 * Mount options of the OCI spec (config.md "Linux mount options") as the descriptor-based mount calls want them:
 * attributes to set and clear, propagation, and what is left over for the file system. Pure.
 */
import { SandboxError } from "../../../src/base/errors.ts";
import {
  MOUNT_ATTR_ATIME,
  MOUNT_ATTR_NOATIME,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NODIRATIME,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_NOSYMFOLLOW,
  MOUNT_ATTR_RDONLY,
  MOUNT_ATTR_STRICTATIME,
  MS_PRIVATE,
  MS_SHARED,
  MS_SLAVE,
  MS_UNBINDABLE,
} from "./kernel.ts";

/** MOUNT_ATTR_* bits to switch on and off; atime bits are cleared before they are set. */
export interface MountAttributes {
  readonly set: number;
  readonly clear: number;
}

export interface Propagation {
  /** MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE. */
  readonly flag: number;
  readonly recursive: boolean;
}

export interface MountOptions {
  readonly bind: boolean;
  /** A bind that takes the mounts below its source along. */
  readonly recursiveBind: boolean;
  /** For the mount itself. */
  readonly attributes: MountAttributes;
  /** For the mount and everything below it. */
  readonly recursiveAttributes: MountAttributes;
  readonly propagation: readonly Propagation[];
  /** Contents of the image below the mount point are copied into the new tmpfs. */
  readonly copyUp: boolean;
  /** Parameters of the file system: [name, value] or [name] for a flag. */
  readonly data: readonly (readonly [string] | readonly [string, string])[];
}

type Change = { readonly on: number } | { readonly off: number } | { readonly atime: number };

/** Names of mount(8) for single mounts. Access time modes exclude each other: MOUNT_ATTR__ATIME is one field. */
const ATTRIBUTES: Readonly<Record<string, Change>> = {
  ro: { on: MOUNT_ATTR_RDONLY },
  rw: { off: MOUNT_ATTR_RDONLY },
  nosuid: { on: MOUNT_ATTR_NOSUID },
  suid: { off: MOUNT_ATTR_NOSUID },
  nodev: { on: MOUNT_ATTR_NODEV },
  dev: { off: MOUNT_ATTR_NODEV },
  noexec: { on: MOUNT_ATTR_NOEXEC },
  exec: { off: MOUNT_ATTR_NOEXEC },
  nodiratime: { on: MOUNT_ATTR_NODIRATIME },
  diratime: { off: MOUNT_ATTR_NODIRATIME },
  nosymfollow: { on: MOUNT_ATTR_NOSYMFOLLOW },
  symfollow: { off: MOUNT_ATTR_NOSYMFOLLOW },
  relatime: { atime: 0 },
  norelatime: { atime: MOUNT_ATTR_STRICTATIME },
  noatime: { atime: MOUNT_ATTR_NOATIME },
  atime: { atime: 0 },
  strictatime: { atime: MOUNT_ATTR_STRICTATIME },
  nostrictatime: { atime: 0 },
};

const PROPAGATION: Readonly<Record<string, number>> = {
  shared: MS_SHARED,
  slave: MS_SLAVE,
  private: MS_PRIVATE,
  unbindable: MS_UNBINDABLE,
};

/** Without effect in a new mount: the kernel's defaults, mount(8)'s own words, obsolete ones. */
const IGNORED = new Set([
  "defaults",
  "remount",
  "auto",
  "noauto",
  "user",
  "nouser",
  "loud",
  "nomand",
  "noiversion",
  "_netdev",
]);

/** The propagation that `name` ("rslave", "shared") asks for, or undefined when it is no such name. */
export function parsePropagation(name: string): Propagation | undefined {
  const single = PROPAGATION[name];
  if (single !== undefined) return { flag: single, recursive: false };
  const recursive = name.startsWith("r") ? PROPAGATION[name.slice(1)] : undefined;
  return recursive === undefined ? undefined : { flag: recursive, recursive: true };
}

/** @param destination names the mount in errors. @throws ERR_UNSUPPORTED for id-mapped mounts. */
export function parseMountOptions(options: readonly string[], destination: string): MountOptions {
  let bind = false;
  let recursiveBind = false;
  let copyUp = false;
  const own = new AttributeBuilder();
  const below = new AttributeBuilder();
  const propagation: Propagation[] = [];
  const data: (readonly [string] | readonly [string, string])[] = [];
  for (const option of options) {
    const spread = parsePropagation(option);
    if (option === "bind") bind = true;
    else if (option === "rbind") bind = recursiveBind = true;
    else if (option === "tmpcopyup") copyUp = true;
    else if (option === "idmap" || option === "ridmap") throw idmapped(destination);
    else if (spread !== undefined) propagation.push(spread);
    else if (IGNORED.has(option) || option === "") continue;
    else if (!own.apply(option) && !(option.startsWith("r") && below.apply(option.slice(1)))) {
      data.push(parseData(option));
    }
  }
  return {
    bind,
    recursiveBind,
    attributes: own.result(),
    recursiveAttributes: below.result(),
    propagation,
    copyUp,
    data,
  };
}

function idmapped(destination: string): SandboxError {
  return new SandboxError("ERR_UNSUPPORTED", `mount of ${destination}: id-mapped mounts are not supported`);
}

function parseData(option: string): readonly [string] | readonly [string, string] {
  const equals = option.indexOf("=");
  return equals < 0 ? [option] : [option.slice(0, equals), option.slice(equals + 1)];
}

/** Collects attribute names; a later one wins over an earlier one. */
class AttributeBuilder {
  #set = 0;
  #clear = 0;

  /** False when `name` is not an attribute. */
  apply(name: string): boolean {
    const change = ATTRIBUTES[name];
    if (change === undefined) return false;
    if ("on" in change) {
      this.#set |= change.on;
      this.#clear &= ~change.on;
    } else if ("off" in change) {
      this.#clear |= change.off;
      this.#set &= ~change.off;
    } else {
      this.#clear |= MOUNT_ATTR_ATIME;
      this.#set = (this.#set & ~MOUNT_ATTR_ATIME) | change.atime;
    }
    return true;
  }

  result(): MountAttributes {
    return { set: this.#set, clear: this.#clear };
  }
}
