/**
 * The parts of the OCI runtime specification (v1.0–1.2, config.json) that the host reads or rewrites. Everything else
 * of the document passes through to the guest unchanged.
 */
import { SandboxError } from "../base/errors.ts";

export interface OciMount {
  destination: string;
  type?: string;
  source?: string;
  options?: string[];
}

export interface OciProcess {
  terminal?: boolean;
  consoleSize?: { height: number; width: number };
  user?: { uid?: number; gid?: number; umask?: number; additionalGids?: number[]; username?: string };
  args?: string[];
  env?: string[];
  cwd?: string;
  apparmorProfile?: string;
  selinuxLabel?: string;
  oomScoreAdj?: number;
  [key: string]: unknown;
}

export interface OciNamespace {
  type: string;
  path?: string;
}

export interface OciDevice {
  path: string;
  type: string;
  major?: number;
  minor?: number;
  [key: string]: unknown;
}

export interface OciDeviceRule {
  allow?: boolean;
  type?: string;
  major?: number;
  minor?: number;
  access?: string;
  [key: string]: unknown;
}

export interface OciResources {
  memory?: { limit?: number; reservation?: number; swap?: number; [key: string]: unknown };
  cpu?: {
    shares?: number;
    quota?: number;
    period?: number;
    cpus?: string;
    mems?: string;
    [key: string]: unknown;
  };
  pids?: { limit?: number };
  devices?: OciDeviceRule[];
  blockIO?: unknown;
  network?: unknown;
  rdma?: unknown;
  [key: string]: unknown;
}

export interface OciLinux {
  namespaces?: OciNamespace[];
  uidMappings?: unknown[];
  gidMappings?: unknown[];
  devices?: OciDevice[];
  cgroupsPath?: string;
  resources?: OciResources;
  rootfsPropagation?: string;
  mountLabel?: string;
  seccomp?: unknown;
  sysctl?: Record<string, string>;
  [key: string]: unknown;
}

export interface OciSpec {
  ociVersion?: string;
  process?: OciProcess;
  root?: { path: string; readonly?: boolean };
  hostname?: string;
  mounts?: OciMount[];
  hooks?: unknown;
  annotations?: Record<string, string>;
  linux?: OciLinux;
  [key: string]: unknown;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * Parses config.json.
 * @param origin names the file in errors.
 * @throws ERR_SPEC when it is not JSON or a part that the host relies on has the wrong shape.
 */
export function parseSpec(text: string, origin: string): OciSpec {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new SandboxError("ERR_SPEC", `${origin} is not valid JSON`, { cause: error });
  }
  const bad = (where: string, expected: string): never => {
    throw new SandboxError("ERR_SPEC", `${origin}: ${where} must be ${expected}`);
  };
  if (!isObject(value)) return bad("the document", "an object");
  for (const key of ["process", "root", "linux", "annotations"] as const) {
    if (value[key] !== undefined && value[key] !== null && !isObject(value[key])) bad(key, "an object");
    if (value[key] === null) delete value[key];
  }
  const spec = value as OciSpec;
  if (spec.root !== undefined && typeof spec.root.path !== "string") bad("root.path", "a string");
  if (spec.mounts !== undefined && spec.mounts !== null) checkMounts(spec.mounts, bad);
  if (spec.linux?.namespaces !== undefined && !Array.isArray(spec.linux.namespaces)) {
    bad("linux.namespaces", "an array");
  }
  for (const [key, annotation] of Object.entries(spec.annotations ?? {})) {
    if (typeof annotation !== "string") bad(`annotations["${key}"]`, "a string");
  }
  return spec;
}

function checkMounts(mounts: unknown, bad: (where: string, expected: string) => never): void {
  if (!Array.isArray(mounts)) bad("mounts", "an array");
  for (const [index, mount] of (mounts as unknown[]).entries()) {
    if (!isObject(mount)) {
      bad(`mounts[${index}]`, "an object");
      continue;
    }
    if (typeof mount.destination !== "string" || !mount.destination.startsWith("/")) {
      bad(`mounts[${index}].destination`, "an absolute path");
    }
    if (mount.options !== undefined && mount.options !== null && !Array.isArray(mount.options)) {
      bad(`mounts[${index}].options`, "an array of strings");
    }
  }
}
