/**
 * The parts of the OCI runtime specification (v1.0–1.2, config.json) that the host reads or rewrites. Everything else
 * of the document passes through to the guest unchanged.
 */
import { SandboxError } from "../base/errors.ts";
import { specShape } from "./spec-shape.ts";

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
  specShape(value, "", (at, expected) => {
    throw new SandboxError("ERR_SPEC", `${origin}: ${at} must be ${expected}`);
  });
  return value as OciSpec;
}
