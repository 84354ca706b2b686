/** The requirements of this host, one function each: what was found, whether it is enough, what mends it. */
import fs from "node:fs";
import { join } from "node:path";
import { describeError } from "../base/errors.ts";
import { type Config, checkPaths, checkVsockDaemon, loadConfig } from "../config/index.ts";
import { detectAccel } from "../hypervisor/accel.ts";
import { detectFlavour } from "../hypervisor/virtiofsd.ts";
import { runRoot } from "../persist/run-dir.ts";
import { templateAt } from "../runtime/template.ts";
import type { OperatorHost } from "./host.ts";
import { deviceProblem, hostFacts, readQuietly } from "./host-facts.ts";
import { imageFacts } from "./image-facts.ts";
import { inotifyInstances, takenInstances } from "./inotify.ts";
import { type Distro, distroOf, installCommand } from "./packages.ts";
import { findSandboxes } from "./sandbox-record.ts";
import { templateObstacle, wantedTemplate } from "./templates.ts";
import { loadTools } from "./tools.ts";
import { atLeast, firstLineOf, LEAST_NODE, versionIn } from "./versions.ts";

export interface CheckResult {
  readonly name: string;
  readonly status: "ok" | "warning" | "fail";
  readonly found: string;
  /** A command, or what to do in words; empty when nothing is to be mended. */
  readonly remedy: string;
}

interface Context {
  readonly config: Config;
  readonly host: OperatorHost;
  readonly distro: Distro;
}

type Check = (context: Context) => Promise<CheckResult> | CheckResult;

/** The oldest that are tested (docs/limitations.md). */
const LEAST_QEMU = "7.2";
const LEAST_CONTAINERD = "1.6";
const MAX_INSTANCES = "/proc/sys/fs/inotify/max_user_instances";
const MIB = 1 << 20;

const ok = (name: string, found: string): CheckResult => ({ name, status: "ok", found, remedy: "" });
const warning = (name: string, found: string, remedy: string): CheckResult => ({
  name,
  status: "warning",
  found,
  remedy,
});
const fail = (name: string, found: string, remedy: string): CheckResult => ({
  name,
  status: "fail",
  found,
  remedy,
});

/** All results, in an order in which the first failure is the one to mend first. */
export async function checkHost(path: string | undefined, host: OperatorHost): Promise<CheckResult[]> {
  const distro = distroOf(hostFacts().distro.like);
  const results = [rights(), architecture(), node()];
  let config: Config;
  try {
    config = await loadConfig(path === undefined ? {} : { path });
  } catch (error) {
    const found = describeError(error);
    const remedy = found.endsWith("does not exist")
      ? "shim config paths shows where it is looked for"
      : `shim config check ${/(\/\S+\.toml) is /.exec(found)?.[1] ?? "FILE"} says more`;
    return [...results, fail("configuration", found, remedy)].map(withoutRights);
  }
  results.push(configuration(config));
  for (const check of checks) {
    try {
      results.push(await check({ config, host, distro }));
    } catch (error) {
      results.push(fail(check.name, describeError(error), ""));
    }
  }
  return results.map(withoutRights);
}

/** What a user may not look at says nothing of the host. */
function withoutRights(result: CheckResult): CheckResult {
  if (process.getuid?.() === 0 || !/EACCES|EPERM|cannot be read/.test(result.found)) return result;
  return { ...result, remedy: "run this as root: sudo shim check" };
}

const checks: readonly Check[] = [
  accelerator,
  qemu,
  virtiofsd,
  vsock,
  vhostNet,
  tun,
  utilLinux,
  addon,
  image,
  template,
  memory,
  hugePages,
  inotify,
  runDirectory,
  containerd,
  runtimeInstalled,
  tools,
  sandboxes,
];

function rights(): CheckResult {
  return process.getuid?.() === 0
    ? ok("rights", "root")
    : fail("rights", `uid ${process.getuid?.()}`, "run this as root: sudo shim check");
}

function architecture(): CheckResult {
  return process.arch === "x64"
    ? ok("architecture", "x86_64")
    : fail("architecture", process.arch, "Caisson runs on x86_64");
}

function node(): CheckResult {
  const version = process.version.slice(1);
  return atLeast(version, LEAST_NODE)
    ? ok("node", `${version} (${process.execPath})`)
    : fail("node", version, `install Node ${LEAST_NODE} or later`);
}

function configuration({ files, warnings }: Config): CheckResult {
  const found = files.length === 0 ? "built-in defaults" : files.join(", ");
  return warnings.length === 0
    ? ok("configuration", found)
    : warning("configuration", warnings.join("; "), "");
}

function accelerator({ config }: Context): CheckResult {
  const { accel, reason } = detectAccel();
  const wanted = config.hypervisor.accel;
  if (wanted === "tcg") return warning("accelerator", "tcg, by the configuration", 'set accel = "auto"');
  if (accel === "kvm") return ok("accelerator", `kvm: ${reason}`);
  const remedy = fs.existsSync("/dev/kvm")
    ? "on a virtual machine: enable nested virtualization; on hardware: enable VT-x or AMD-V in the firmware"
    : "modprobe kvm_intel || modprobe kvm_amd";
  return wanted === "kvm"
    ? fail("accelerator", reason, remedy)
    : warning("accelerator", `tcg, many times slower: ${reason}`, remedy);
}

async function qemu({ config, distro }: Context): Promise<CheckResult> {
  const path = pathOf(config, "qemu");
  if (path === undefined)
    return absent("qemu", "path", config.hypervisor.path, installCommand(distro, "qemu"));
  const line = await firstLineOf(path);
  const version = versionIn(line);
  if (version === undefined) return fail("qemu", `${path} cannot be run`, installCommand(distro, "qemu"));
  return atLeast(version, LEAST_QEMU)
    ? ok("qemu", `${version} (${path})`)
    : fail("qemu", `${version} (${path})`, `install QEMU ${LEAST_QEMU} or later`);
}

async function virtiofsd({ config, distro }: Context): Promise<CheckResult> {
  const path = pathOf(config, "virtiofsd");
  if (path === undefined) {
    const bookworm = readQuietly("/etc/os-release").includes("bookworm");
    const remedy = bookworm ? "apt-get install qemu-system-common" : installCommand(distro, "virtiofsd");
    return absent("virtiofsd", "virtio_fs_daemon", config.hypervisor.virtioFsDaemon, remedy);
  }
  const line = await firstLineOf(path);
  return ok("virtiofsd", `${versionIn(line) ?? "unknown version"}, ${detectFlavour(path)} (${path})`);
}

function absent(name: string, key: string, configured: string, install: string): CheckResult {
  return configured === ""
    ? fail(name, "not found", install)
    : fail(name, `${configured} not found`, `${install}, or correct ${key} in [hypervisor.qemu]`);
}

/** The path that a sandbox would take; undefined when there is none. */
function pathOf(config: Config, what: "qemu" | "virtiofsd"): string | undefined {
  try {
    return checkPaths(config)[what];
  } catch (error) {
    // The one that is missing is named; another's absence must not hide this one.
    const { path, virtioFsDaemon } = config.hypervisor;
    const places = {
      qemu:
        path !== "" ? [path] : ["/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm", "/usr/bin/qemu-kvm"],
      virtiofsd:
        virtioFsDaemon !== ""
          ? [virtioFsDaemon]
          : ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd"],
    }[what];
    if (describeError(error) === "") return undefined;
    return places.find((place) => fs.existsSync(place));
  }
}

function vsock({ config, distro }: Context): CheckResult {
  const backend = config.hypervisor.vsockBackend;
  const problem = deviceProblem("/dev/vhost-vsock");
  if (backend !== "vhost-user" && problem === undefined)
    return ok("vsock", "vhost: /dev/vhost-vsock can be opened");
  if (backend === "vhost")
    return fail("vsock", `/dev/vhost-vsock cannot be opened (${problem})`, "modprobe vhost_vsock");
  try {
    const daemon = checkVsockDaemon(config);
    const why = backend === "vhost-user" ? "by the configuration" : `/dev/vhost-vsock: ${problem}`;
    return ok("vsock", `vhost-user: ${daemon} (${why})`);
  } catch (error) {
    const remedy = `modprobe vhost_vsock, or ${installCommand(distro, "vsock")}`;
    return fail("vsock", `/dev/vhost-vsock cannot be opened (${problem}); ${describeError(error)}`, remedy);
  }
}

function vhostNet({ config }: Context): CheckResult {
  if (config.hypervisor.disableVhostNet) return ok("vhost-net", "disabled by the configuration");
  const problem = deviceProblem("/dev/vhost-net");
  return problem === undefined
    ? ok("vhost-net", "/dev/vhost-net can be opened")
    : warning(
        "vhost-net",
        `/dev/vhost-net: ${problem}; QEMU moves the packets, more slowly`,
        "modprobe vhost_net",
      );
}

function tun(): CheckResult {
  const problem = deviceProblem("/dev/net/tun");
  return problem === undefined
    ? ok("tap devices", "/dev/net/tun can be opened")
    : fail("tap devices", `/dev/net/tun: ${problem}`, "modprobe tun");
}

function utilLinux({ distro }: Context): CheckResult {
  const missing = ["setpriv", "nsenter"].filter(
    (name) => !["/usr/bin", "/bin", "/usr/sbin", "/sbin"].some((dir) => fs.existsSync(`${dir}/${name}`)),
  );
  return missing.length === 0
    ? ok("util-linux", "setpriv, nsenter")
    : fail("util-linux", `${missing.join(", ")} not found`, installCommand(distro, "utilLinux"));
}

async function addon(): Promise<CheckResult> {
  try {
    const { createMounter } = await import("../native/index.ts");
    createMounter({ beneath: "/nonexistent" });
    return ok("native addon", "loads");
  } catch (error) {
    return fail(
      "native addon",
      describeError(error),
      "npm run build (in the checkout), or install the package again",
    );
  }
}

function image({ config, host }: Context): CheckResult {
  const { initrd, realInitrd, kernel, realKernel, manifest } = imageFacts(config);
  const remedy = "osbuilder generate";
  if (realInitrd === undefined) return fail("guest image", `initrd ${initrd} not found`, remedy);
  if (realKernel === undefined) return fail("guest image", `kernel ${kernel} not found`, remedy);
  if (manifest === undefined) return warning("guest image", `${realInitrd}, not made by osbuilder`, "");
  const found = `kernel ${manifest.kernel.release}, agent ${manifest.agent.version ?? "of unknown version"} (${realInitrd})`;
  if (manifest.agent.version !== null && manifest.agent.version !== host.version)
    return warning("guest image", `${found}, but this is version ${host.version}`, remedy);
  return ok("guest image", found);
}

function template({ config }: Context): CheckResult {
  const obstacle = templateObstacle(config);
  if (obstacle !== undefined) return ok("template", `off, machines start their kernel: ${obstacle}`);
  const remedy = "shim factory init";
  try {
    const { dir, key } = wantedTemplate(config);
    const path = join(dir, key);
    return templateAt(path) !== undefined
      ? ok("template", `new machines start from ${path}`)
      : warning("template", `new machines start their kernel: ${dir} has none for them`, remedy);
  } catch (error) {
    return warning("template", describeError(error), `mend what fails, then ${remedy}`);
  }
}

function memory({ config }: Context): CheckResult {
  const available = Math.floor(hostFacts().memory.availableBytes / MIB);
  const wanted = config.hypervisor.defaultMemory;
  const found = `${available} MiB available, ${wanted} MiB for a machine`;
  return available >= wanted
    ? ok("memory", found)
    : warning("memory", found, "lower default_memory, or free some");
}

function hugePages({ config }: Context): CheckResult {
  if (!config.hypervisor.enableHugepages) return ok("huge pages", "not used");
  const free = Number(/^HugePages_Free:\s+(\d+)/m.exec(readQuietly("/proc/meminfo"))?.[1] ?? 0);
  const sizeMiB = Number(/^Hugepagesize:\s+(\d+) kB/m.exec(readQuietly("/proc/meminfo"))?.[1] ?? 2048) / 1024;
  const wanted = Math.ceil(config.hypervisor.defaultMemory / sizeMiB);
  return free >= wanted
    ? ok("huge pages", `${free} free of ${sizeMiB} MiB`)
    : fail(
        "huge pages",
        `${free} free of ${sizeMiB} MiB, ${wanted} for a machine`,
        `sysctl vm.nr_hugepages=${wanted * 8}`,
      );
}

function inotify(): CheckResult {
  const { found, remedy } = inotifyInstances(readQuietly(MAX_INSTANCES), takenInstances());
  return remedy === "" ? ok("inotify", found) : warning("inotify", found, remedy);
}

function runDirectory(): CheckResult {
  const root = runRoot();
  try {
    fs.mkdirSync(root, { recursive: true, mode: 0o700 });
    fs.accessSync(root, fs.constants.W_OK);
  } catch (error) {
    return fail("run directory", describeError(error), "run this as root");
  }
  const { bavail, bsize } = fs.statfsSync(root);
  const freeMiB = Math.floor((bavail * bsize) / MIB);
  return freeMiB >= 16
    ? ok("run directory", `${root}, ${freeMiB} MiB free`)
    : fail(
        "run directory",
        `${root} is full: ${freeMiB} MiB free`,
        "shim gc, or make room on its file system",
      );
}

async function containerd({ distro }: Context): Promise<CheckResult> {
  const line = await firstLineOf("containerd");
  if (line === undefined) {
    const crio = await firstLineOf("crio");
    return crio === undefined
      ? warning(
          "container engine",
          "neither containerd nor CRI-O was found",
          installCommand(distro, "containerd"),
        )
      : ok("container engine", crio);
  }
  const version = versionIn(line);
  return version !== undefined && atLeast(version, LEAST_CONTAINERD)
    ? ok("container engine", line)
    : fail("container engine", line, `install containerd ${LEAST_CONTAINERD} or later`);
}

/** Where containerd finds a shim of the runtime type io.containerd.caisson.v2: its own PATH. */
const SHIM = "containerd-shim-caisson-v2";

function runtimeInstalled({ host }: Context): CheckResult {
  const dirs = ["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/opt/containerd/bin"];
  const found = dirs.map((dir) => join(dir, SHIM)).find((path) => fs.existsSync(path));
  const own = join(host.programRoot, "bin", SHIM);
  if (found !== undefined) return ok("runtime", found);
  return warning(
    "runtime",
    `${SHIM} is in none of ${dirs.join(", ")}; containerd finds it only by its path`,
    `ln -s ${own} /usr/local/bin/${SHIM}`,
  );
}

function tools({ host, distro }: Context): CheckResult {
  try {
    const { length } = loadTools(host);
    return ok("tools for exec", `static busybox, ${Math.round(length / 1000)} kB`);
  } catch (error) {
    return warning("tools for exec", describeError(error), installCommand(distro, "busybox"));
  }
}

function sandboxes(): CheckResult {
  const all = findSandboxes();
  const left = all.filter(({ owned }) => !owned);
  if (left.length === 0) return ok("sandboxes", `${all.length} in use, none orphaned`);
  return warning("sandboxes", `orphaned: ${left.map(({ id }) => id).join(", ")}`, "shim gc");
}
