/** Finds the programs and images that the configuration means, and says clearly what is missing. */
import { accessSync, closeSync, constants, openSync, readSync, statSync } from "node:fs";
import { errnoOf, SandboxError } from "../base/errors.ts";
import { logField } from "../base/log-fields.ts";
import type { Config } from "./config.ts";

/** Programs and images, all present. */
export interface ResolvedPaths {
  readonly qemu: string;
  readonly kernel: { readonly path: string; readonly format: "vmlinux" | "bzImage" };
  readonly initrd: string;
  readonly virtiofsd: string;
  /** The firmware file; undefined when the configuration leaves the choice or names QEMU's own. */
  readonly firmware: string | undefined;
}

const qemuPlaces = ["/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm", "/usr/bin/qemu-kvm"] as const;
const virtiofsdPlaces = [
  "/usr/libexec/virtiofsd",
  "/usr/lib/qemu/virtiofsd",
  "/usr/lib/virtiofsd",
  "/usr/bin/virtiofsd",
] as const;

/** Where distributions and our own set-up put the user-space vsock backend. */
export const vsockDaemonPlaces = [
  "/usr/bin/vhost-device-vsock",
  "/usr/libexec/vhost-device-vsock",
  "/usr/libexec/caisson/vhost-device-vsock",
] as const;

/** ELF: e_ident of the System V ABI. bzImage: "HdrS" at 0x202 of the boot protocol (Documentation/x86/boot.rst). */
const ELF_MAGIC = Buffer.from("\x7fELF", "latin1");
const SETUP_MAGIC = Buffer.from("HdrS", "latin1");
const SETUP_MAGIC_OFFSET = 0x202;

const osbuilderHint = "run `osbuilder generate`";

/**
 * Checks every file that starting a machine needs, before anything is started.
 * @throws SandboxError ERR_CONFIG naming the key, the path and the remedy.
 */
export function checkPaths(config: Config): ResolvedPaths {
  const { hypervisor } = config;
  const qemu = program(hypervisor.path, "path", qemuPlaces, "QEMU", "install the package qemu-system-x86");
  const virtiofsd = program(
    hypervisor.virtioFsDaemon,
    "virtio_fs_daemon",
    virtiofsdPlaces,
    "virtiofsd",
    "install the package virtiofsd (Debian 12: qemu-system-common)",
  );
  const format = kernelFormat(hypervisor.kernel, hypervisor.kernelFormat);
  readableFile(hypervisor.initrd, "initrd", osbuilderHint);
  const named = hypervisor.firmware.startsWith("/") ? hypervisor.firmware : undefined;
  if (named !== undefined) readableFile(named, "firmware", "leave the key empty for the default");
  return {
    qemu,
    virtiofsd,
    kernel: { path: hypervisor.kernel, format },
    initrd: hypervisor.initrd,
    firmware: named,
  };
}

/** The user-space vsock backend. @throws SandboxError ERR_CONFIG naming key and remedy. */
export function checkVsockDaemon(config: Config, morePlaces: readonly string[] = []): string {
  return program(
    config.hypervisor.vhostUserVsockDaemon,
    "vhost_user_vsock_daemon",
    [...morePlaces, ...vsockDaemonPlaces],
    "vhost-device-vsock",
    "install the package vhost-device-vsock",
  );
}

function program(
  configured: string,
  key: string,
  places: readonly string[],
  what: string,
  remedy: string,
): string {
  if (configured !== "") {
    const problem = problemOf(configured, constants.X_OK);
    if (problem !== undefined) throw missing(key, configured, problem, remedy);
    return configured;
  }
  const found = places.find((place) => problemOf(place, constants.X_OK) === undefined);
  if (found !== undefined) return found;
  throw new SandboxError(
    "ERR_CONFIG",
    `${what} was not found (looked for ${places.join(", ")}); ${remedy} or set hypervisor.qemu.${key}`,
  );
}

function readableFile(path: string, key: string, remedy: string): void {
  const problem = problemOf(path, constants.R_OK);
  if (problem !== undefined) throw missing(key, path, problem, remedy);
}

function problemOf(path: string, mode: number): string | undefined {
  try {
    if (!statSync(path).isFile()) return "is not a file";
    accessSync(path, mode);
    return undefined;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return "not found";
    return errnoOf(error) === "EACCES" ? "is not accessible" : `cannot be used (${errnoOf(error)})`;
  }
}

/** The kernel's format, by its first bytes. */
function kernelFormat(path: string, configured: "auto" | "vmlinux" | "bzImage"): "vmlinux" | "bzImage" {
  readableFile(path, "kernel", osbuilderHint);
  const head = Buffer.alloc(SETUP_MAGIC_OFFSET + SETUP_MAGIC.length);
  const fd = openSync(path, "r");
  try {
    readSync(fd, head, 0, head.length, 0);
  } finally {
    closeSync(fd);
  }
  const isElf = head.subarray(0, ELF_MAGIC.length).equals(ELF_MAGIC);
  const isBzImage = head.subarray(SETUP_MAGIC_OFFSET).equals(SETUP_MAGIC);
  const found = isElf ? "vmlinux" : isBzImage ? "bzImage" : undefined;
  if (found === undefined) {
    throw missing("kernel", path, "is neither a vmlinux (ELF) nor a bzImage", osbuilderHint);
  }
  if (configured !== "auto" && configured !== found) {
    throw missing("kernel", path, `is a ${found} and not a ${configured}`, "set kernel_format to auto");
  }
  return found;
}

function missing(key: string, path: string, problem: string, remedy: string): SandboxError {
  const name = key === "path" ? "QEMU" : key;
  return new SandboxError("ERR_CONFIG", `${name} ${path} ${problem}: ${remedy} (hypervisor.qemu.${key})`, {
    fields: { [logField.path]: path },
  });
}
