/** What the shim reads from and writes to the OCI bundle directory. */
import fs from "node:fs";
import path from "node:path";
import { SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { type ContainerRole, containerRole } from "../oci/annotations.ts";
import { type OciSpec, parseSpec } from "../oci/spec.ts";

/** Reads config.json of `bundle`. @throws ERR_SPEC naming the file. */
export function readBundleSpec(bundle: string): OciSpec {
  const file = path.join(bundle, "config.json");
  let text: string;
  try {
    text = fs.readFileSync(file, "utf8");
  } catch (error) {
    throw new SandboxError("ERR_SPEC", `cannot read ${file}`, { cause: error });
  }
  return parseSpec(text, file);
}

export interface RecordedExit {
  readonly status: number;
  readonly exitedAt: Date;
}

const EXIT_FILE = "caisson-exit.json";

/** Notes how the container's process ended, for `delete`: the shim may be killed before containerd has asked. */
export function writeExit(bundle: string, { status, exitedAt }: RecordedExit): void {
  const file = path.join(bundle, EXIT_FILE);
  try {
    fs.writeFileSync(`${file}.new`, JSON.stringify({ status, exitedAt: exitedAt.toISOString() }));
    fs.renameSync(`${file}.new`, file);
  } catch {
    // The bundle is gone or full; then a killed shim's container counts as killed.
  }
}

/** What `writeExit` noted; undefined when the process had not ended. */
export function readExit(bundle: string): RecordedExit | undefined {
  try {
    const value: unknown = JSON.parse(fs.readFileSync(path.join(bundle, EXIT_FILE), "utf8"));
    const { status, exitedAt } = value as { status?: unknown; exitedAt?: unknown };
    const at = new Date(String(exitedAt));
    if (!Number.isInteger(status) || (status as number) < 0 || Number.isNaN(at.getTime())) return undefined;
    return { status: status as number, exitedAt: at };
  } catch {
    return undefined;
  }
}

/**
 * Leaves the file `oom` in the bundle: CRI-O has no event sink and looks there when the container has ended (CRI-O
 * internal/oci/runtime_vm.go). Never throws.
 */
export function markOutOfMemory(bundle: string, log: Log): void {
  try {
    fs.writeFileSync(path.join(bundle, "oom"), "");
  } catch (error) {
    log.warn({ path: bundle, err: String(error) }, "the bundle could not be marked as out of memory");
  }
}

/** The role of the bundle's container; `single` where there is no config.json (the sandbox API of containerd 2). */
export function bundleRole(bundle: string): ContainerRole {
  if (!fs.existsSync(path.join(bundle, "config.json"))) return { role: "single" };
  return containerRole(readBundleSpec(bundle).annotations ?? {});
}
