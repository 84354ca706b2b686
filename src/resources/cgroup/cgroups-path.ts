/**
 * `linux.cgroupsPath` of an OCI spec as a directory below the root of each cgroup hierarchy. Pure.
 *
 * There are two forms: a path, and `slice:prefix:name` of runtimes that use systemd's driver. The latter names the scope
 * `prefix-name.scope` in the slice, and a slice `a-b.slice` lies in `a.slice` (systemd.slice(5)).
 */
import { SandboxError } from "../../base/errors.ts";

export interface CgroupPlace {
  /** Absolute below a hierarchy's root, never the root itself. */
  readonly path: string;
  /** The unit that systemd would have there; undefined for a plain path. */
  readonly scope: { readonly slice: string; readonly unit: string } | undefined;
}

/** systemd's own slices when none is named: that of system services (systemd.special(7)). */
const DEFAULT_SLICE = "system.slice";

/** @returns undefined for no path and for the root: the shim then stays where it is. @throws ERR_SPEC */
export function cgroupPlace(cgroupsPath: string | undefined): CgroupPlace | undefined {
  if (cgroupsPath === undefined || cgroupsPath === "") return undefined;
  const parts = cgroupsPath.split(":");
  if (parts.length === 3 && !cgroupsPath.includes("/")) return scopePlace(cgroupsPath, parts);
  const names = cgroupsPath.split("/").filter((name) => name !== "" && name !== ".");
  if (names.some((name) => name === ".." || /[\0\n]/.test(name)))
    throw bad(cgroupsPath, "leaves the hierarchy");
  return names.length === 0 ? undefined : { path: `/${names.join("/")}`, scope: undefined };
}

function scopePlace(
  cgroupsPath: string,
  [given = "", prefix = "", name = ""]: readonly string[],
): CgroupPlace {
  const slice = given === "" ? DEFAULT_SLICE : given;
  if (name === "" || /[\0\n]/.test(cgroupsPath)) throw bad(cgroupsPath, "names no scope");
  const unit = name.endsWith(".slice") ? name : `${prefix}-${name}.scope`;
  return { path: `${slicePath(slice, cgroupsPath)}/${unit}`, scope: { slice, unit } };
}

/** "a-b.slice" is "/a.slice/a-b.slice"; "-.slice" is the root. */
function slicePath(slice: string, cgroupsPath: string): string {
  if (slice === "-.slice") return "";
  const words = slice.replace(/\.slice$/, "").split("-");
  if (!slice.endsWith(".slice") || words.includes("")) throw bad(cgroupsPath, `"${slice}" is no slice`);
  return words.map((_, index) => `/${words.slice(0, index + 1).join("-")}.slice`).join("");
}

const bad = (cgroupsPath: string, why: string): SandboxError =>
  new SandboxError("ERR_SPEC", `linux.cgroupsPath "${cgroupsPath}": ${why}`);
