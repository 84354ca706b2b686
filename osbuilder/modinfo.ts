/** What a kernel module says about itself in its `.modinfo` section: NUL-terminated "key=value" strings. */
import { SandboxError } from "../src/base/errors.ts";
import { parseElf, sectionBytes } from "./elf.ts";

export interface Modinfo {
  /** Names of modules that must be loaded first, direct ones only. */
  readonly depends: readonly string[];
  /** Names or aliases of modules to load before and after, where they exist. */
  readonly softBefore: readonly string[];
  readonly softAfter: readonly string[];
  readonly aliases: readonly string[];
  /** The release of the kernel it was built for. */
  readonly release: string | undefined;
}

/** A module's name as the kernel has it: "virtio-rng" and "virtio_rng" are the same. */
export function moduleName(name: string): string {
  return name.replaceAll("-", "_");
}

/**
 * Reads the section of an uncompressed module.
 * @throws SandboxError ERR_INVALID_ARGUMENT when `bytes` are not a kernel module.
 */
export function parseModinfo(bytes: Uint8Array, path: string): Modinfo {
  const section = sectionBytes(parseElf(bytes, path), ".modinfo");
  if (section === undefined) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `${path} is not a kernel module: it has no .modinfo section`,
    );
  }
  const values = (key: string) =>
    section
      .toString("latin1")
      .split("\0")
      .filter((field) => field.startsWith(`${key}=`))
      .map((field) => field.slice(key.length + 1));
  const softdeps = values("softdep").map(parseSoftdep);
  return {
    depends: values("depends").flatMap(splitNames(",")),
    softBefore: softdeps.flatMap((softdep) => softdep.before),
    softAfter: softdeps.flatMap((softdep) => softdep.after),
    aliases: values("alias"),
    // vermagic: the release, then flags that must agree as well ("6.1.0 SMP preempt mod_unload modversions").
    release: values("vermagic")[0]?.split(" ")[0],
  };
}

/** "pre: a b post: c" (modprobe.d(5)); words before a keyword mean nothing to modprobe either. */
function parseSoftdep(text: string): { before: string[]; after: string[] } {
  const result = { before: [] as string[], after: [] as string[] };
  let current: string[] = [];
  for (const word of splitNames(" ")(text)) {
    if (word === "pre:") current = result.before;
    else if (word === "post:") current = result.after;
    else current.push(word);
  }
  return result;
}

function splitNames(separator: string): (text: string) => string[] {
  return (text) => text.split(separator).filter((name) => name !== "");
}
