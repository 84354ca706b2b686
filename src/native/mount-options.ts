/**
 * Option lists of mount(8), OCI specs and containerd, as the numbers and the string that the kernel takes. Pure.
 *
 * What mount(8) does in two or three steps (bind, then remount read-only, then change propagation) is one plan here,
 * because the addon makes a bind mount with all its attributes at once.
 */
import { SandboxError } from "../base/errors.ts";

/** MS_* of include/uapi/linux/mount.h. */
export const MountFlag = {
  ReadOnly: 1,
  NoSuid: 2,
  NoDev: 4,
  NoExec: 8,
  Synchronous: 16,
  Remount: 32,
  MandatoryLock: 64,
  DirSync: 128,
  NoSymFollow: 256,
  NoAtime: 1024,
  NoDirAtime: 2048,
  Bind: 4096,
  Recursive: 16384,
  Silent: 32768,
  Unbindable: 1 << 17,
  Private: 1 << 18,
  Slave: 1 << 19,
  Shared: 1 << 20,
  RelAtime: 1 << 21,
  IVersion: 1 << 23,
  StrictAtime: 1 << 24,
  LazyTime: 1 << 25,
} as const;

/** MOUNT_ATTR_* of include/uapi/linux/mount.h. `AtimeMask` covers the access-time modes; relatime is 0 in it. */
export const MountAttribute = {
  ReadOnly: 0x1,
  NoSuid: 0x2,
  NoDev: 0x4,
  NoExec: 0x8,
  AtimeMask: 0x70,
  NoAtime: 0x10,
  StrictAtime: 0x20,
  NoDirAtime: 0x80,
  NoSymFollow: 0x200000,
} as const;

/** What mount_setattr(2) changes: MOUNT_ATTR_* to set and clear, and one of MS_SHARED, … or 0. */
export interface AttributeChange {
  readonly set: number;
  readonly clear: number;
  readonly propagation: number;
}

export interface MountPlan {
  /**
   * `new` mounts a file system, `bind` attaches a copy of another mount, `remount` changes a file system, `change`
   * only changes attributes of the mount at the target (propagation, or "remount,bind").
   */
  readonly kind: "new" | "bind" | "remount" | "change";
  /** MS_* for `new` and `remount`, without MS_REMOUNT and propagation. */
  readonly flags: number;
  /** The file system's own options, comma-separated. */
  readonly data: string;
  /** For `bind`: with what is mounted below the source. */
  readonly recursive: boolean;
  /** Changes of the mount itself; for `new` and `remount` only its propagation. */
  readonly top: AttributeChange;
  /** Changes of it and all mounts below. */
  readonly all: AttributeChange;
}

type Flag = readonly [set: number, clear: number];
const F = MountFlag;
const ATIME_MODES = F.NoAtime | F.RelAtime | F.StrictAtime;

/** Options that are MS_* flags. */
const FLAGS: ReadonlyMap<string, Flag> = new Map<string, Flag>([
  ["defaults", [0, 0]],
  ["ro", [F.ReadOnly, 0]],
  ["rw", [0, F.ReadOnly]],
  ["nosuid", [F.NoSuid, 0]],
  ["suid", [0, F.NoSuid]],
  ["nodev", [F.NoDev, 0]],
  ["dev", [0, F.NoDev]],
  ["noexec", [F.NoExec, 0]],
  ["exec", [0, F.NoExec]],
  ["sync", [F.Synchronous, 0]],
  ["async", [0, F.Synchronous]],
  ["dirsync", [F.DirSync, 0]],
  ["mand", [F.MandatoryLock, 0]],
  ["nomand", [0, F.MandatoryLock]],
  ["noatime", [F.NoAtime, ATIME_MODES]],
  ["atime", [0, F.NoAtime]],
  ["relatime", [F.RelAtime, ATIME_MODES]],
  ["norelatime", [0, F.RelAtime]],
  ["strictatime", [F.StrictAtime, ATIME_MODES]],
  ["nostrictatime", [0, F.StrictAtime]],
  ["nodiratime", [F.NoDirAtime, 0]],
  ["diratime", [0, F.NoDirAtime]],
  ["lazytime", [F.LazyTime, 0]],
  ["nolazytime", [0, F.LazyTime]],
  ["iversion", [F.IVersion, 0]],
  ["noiversion", [0, F.IVersion]],
  ["silent", [F.Silent, 0]],
  ["loud", [0, F.Silent]],
  ["nosymfollow", [F.NoSymFollow, 0]],
  ["symfollow", [0, F.NoSymFollow]],
]);

/** The same options as attributes of a mount; those that are missing belong to the file system. */
const A = MountAttribute;
const ATTRIBUTES: ReadonlyMap<string, Flag> = new Map<string, Flag>([
  ["ro", [A.ReadOnly, 0]],
  ["rw", [0, A.ReadOnly]],
  ["nosuid", [A.NoSuid, 0]],
  ["suid", [0, A.NoSuid]],
  ["nodev", [A.NoDev, 0]],
  ["dev", [0, A.NoDev]],
  ["noexec", [A.NoExec, 0]],
  ["exec", [0, A.NoExec]],
  ["noatime", [A.NoAtime, A.AtimeMask]],
  ["atime", [0, A.AtimeMask]],
  ["relatime", [0, A.AtimeMask]],
  ["norelatime", [A.StrictAtime, A.AtimeMask]],
  ["strictatime", [A.StrictAtime, A.AtimeMask]],
  ["nostrictatime", [0, A.AtimeMask]],
  ["nodiratime", [A.NoDirAtime, 0]],
  ["diratime", [0, A.NoDirAtime]],
  ["nosymfollow", [A.NoSymFollow, 0]],
  ["symfollow", [0, A.NoSymFollow]],
]);

const PROPAGATION: ReadonlyMap<string, number> = new Map([
  ["private", F.Private],
  ["shared", F.Shared],
  ["slave", F.Slave],
  ["unbindable", F.Unbindable],
]);

/** For fstab(5) and its readers; the kernel never sees them. */
const IGNORED =
  /^(?:auto|noauto|nofail|_netdev|user|nouser|users|nousers|owner|noowner|group|nogroup|x-.*|X-.*|comment=.*)$/;

/** What mount(8) or runc does itself and we do not. */
const UNSUPPORTED = /^(?:loop(?:=.*)?|offset=.*|sizelimit=.*|idmap(?:=.*)?|ridmap(?:=.*)?|tmpcopyup|move)$/;

class PlanBuilder {
  flags = 0;
  data: string[] = [];
  bind = false;
  remount = false;
  recursive = false;
  readonly top = { set: 0, clear: 0, propagation: 0 };
  readonly all = { set: 0, clear: 0, propagation: 0 };

  add(option: string): void {
    if (option === "" || IGNORED.test(option)) return;
    if (this.#addKind(option) || this.#addFlag(option) || this.#addRecursive(option)) return;
    if (UNSUPPORTED.test(option)) {
      throw new SandboxError("ERR_UNSUPPORTED", `the mount option "${option}" is not supported`);
    }
    this.data.push(option);
  }

  #addKind(option: string): boolean {
    if (option === "remount") this.remount = true;
    else if (option === "bind") this.bind = true;
    else if (option === "rbind") {
      this.bind = true;
      this.recursive = true;
    } else return false;
    return true;
  }

  #addFlag(option: string): boolean {
    const propagation = PROPAGATION.get(option);
    if (propagation !== undefined) {
      this.top.propagation = propagation;
      this.all.propagation = 0;
      return true;
    }
    const flag = FLAGS.get(option);
    if (flag === undefined) return false;
    this.flags = (this.flags & ~flag[1]) | flag[0];
    const attribute = ATTRIBUTES.get(option);
    if (attribute !== undefined) change(this.top, attribute);
    return true;
  }

  /** "rslave", "rro", …: for all mounts below too. */
  #addRecursive(option: string): boolean {
    if (!option.startsWith("r")) return false;
    const propagation = PROPAGATION.get(option.slice(1));
    if (propagation !== undefined) {
      this.all.propagation = propagation;
      this.top.propagation = 0;
      return true;
    }
    const attribute = ATTRIBUTES.get(option.slice(1));
    if (attribute === undefined) return false;
    change(this.all, attribute);
    return true;
  }
}

/** A later option wins over an earlier one. */
function change(target: { set: number; clear: number }, [set, clear]: Flag): void {
  target.set = (target.set & ~clear) | set;
  target.clear = (target.clear & ~set) | clear;
  // mount_setattr(2): a new access-time mode needs the whole mask cleared.
  if ((set & MountAttribute.AtimeMask) !== 0) target.clear |= MountAttribute.AtimeMask;
}

/**
 * @param fstype a file system, or "", "none" or "bind" for what concerns an existing mount.
 * @param options single options, each possibly several joined by commas.
 * @throws SandboxError ERR_UNSUPPORTED for loop devices and id-mapped mounts, ERR_SPEC for what contradicts itself.
 */
export function parseMountOptions(fstype: string, options: readonly string[]): MountPlan {
  const builder = new PlanBuilder();
  for (const option of options) for (const part of splitOptions(option)) builder.add(part);
  if (fstype === "bind" && !builder.remount) builder.bind = true;
  const kind = kindOf(fstype, builder);
  if (kind === "change" || kind === "bind") {
    if (builder.data.length > 0) {
      const text = builder.data.join(",");
      throw new SandboxError("ERR_SPEC", `"${text}" is no option of a bind mount or of a mount's attributes`);
    }
    const top = { ...builder.top };
    const all = { ...builder.all };
    return { kind, flags: 0, data: "", recursive: builder.recursive, top, all };
  }
  const top = { set: 0, clear: 0, propagation: builder.top.propagation };
  const data = builder.data.join(",");
  return { kind, flags: builder.flags, data, recursive: false, top, all: { ...builder.all } };
}

function kindOf(fstype: string, builder: PlanBuilder): MountPlan["kind"] {
  if (builder.remount) return builder.bind ? "change" : "remount";
  if (builder.bind) return "bind";
  return fstype === "" || fstype === "none" ? "change" : "new";
}

/** Splits at commas that no backslash escapes and that are not inside double quotes (SELinux contexts). */
export function splitOptions(text: string): string[] {
  const parts: string[] = [];
  let part = "";
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const character = text.charAt(i);
    if (character === "\\") {
      part += text.slice(i, i + 2);
      i++;
    } else if (character === "," && !quoted) {
      parts.push(part);
      part = "";
    } else {
      if (character === '"') quoted = !quoted;
      part += character;
    }
  }
  parts.push(part);
  return parts;
}

/** Bytes that mount(2) reads of the option string, the final NUL included: one page (fs/namespace.c). */
export const OPTION_LIMIT_BYTES = 4096;

/**
 * Makes the options of an overlay fit into a page: lower directories relative to the directory that they share.
 * @returns the options and, when they are relative now, the directory to mount from.
 * @throws SandboxError ERR_SPEC when they do not fit all the same.
 */
export function fitOptions(data: string): { data: string; directory: string | undefined } {
  if (Buffer.byteLength(data) < OPTION_LIMIT_BYTES) return { data, directory: undefined };
  const options = splitOptions(data);
  const index = options.findIndex((option) => option.startsWith("lowerdir="));
  const layers = splitLayers((options[index] ?? "").slice("lowerdir=".length));
  const directory = commonDirectory(layers);
  if (index >= 0 && directory !== undefined) {
    // An empty element is the "::" before a data-only layer.
    options[index] = `lowerdir=${layers.map((layer) => layer.slice(directory.length + 1)).join(":")}`;
    const short = options.join(",");
    // The kernel's parser knows escapes in the directory's own name; chdir takes the name as it is.
    if (Buffer.byteLength(short) < OPTION_LIMIT_BYTES) {
      return { data: short, directory: directory.replace(/\\(.)/g, "$1") };
    }
  }
  throw new SandboxError(
    "ERR_SPEC",
    `the mount options need ${Buffer.byteLength(data)} bytes; the kernel takes ${OPTION_LIMIT_BYTES - 1}`,
  );
}

/** Splits at colons that no backslash escapes. */
function splitLayers(text: string): string[] {
  return text.match(/(?:\\.|[^:\\])+|(?<=:)(?=:)/g) ?? [];
}

/** The deepest directory that all absolute paths are below; undefined when that is the root, or one is relative. */
function commonDirectory(paths: readonly string[]): string | undefined {
  const named = paths.filter((path) => path !== "");
  if (named.length === 0 || named.some((path) => !path.startsWith("/"))) return undefined;
  const parents = named.map((path) => path.split("/").slice(0, -1));
  const first = parents[0] ?? [];
  let depth = 0;
  while (depth < first.length && parents.every((parent) => parent[depth] === first[depth])) depth++;
  const directory = first.slice(0, depth).join("/");
  return directory === "" ? undefined : directory;
}
