/**
 * The floor of a pod's network: QEMU with nothing but a NIC, on a tap that `ip` and `tc` join to the pod's interface,
 * and in it the same servers as in a pod. What a model costs beyond this, the sandbox around it costs.
 */
import { execFileSync, spawn } from "node:child_process";
import { existsSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { type CpioEntry, cpioArchive } from "../osbuilder/cpio.ts";
import type { CniPod, CniResult } from "../test/e2e/net/cni.ts";
import { built, repositoryRoot } from "../test/harness/paths.ts";
import { runOk } from "../test/harness/run.ts";
import type { World } from "../test/harness/world.ts";
import { floorCommand } from "./floor.ts";

const TAP = "floor0";
const READY = "the floor is ready";
const BOOT_LIMIT_MS = 60_000;

export interface NetFloorInit {
  readonly world: World;
  readonly pod: CniPod;
  /** What the plugins gave `eth0` of the pod. */
  readonly result: CniResult;
  /** The command line of a sandbox's QEMU, whose machine, memory and kernel the floor has as well. */
  readonly sandbox: readonly string[];
  /** A dynamic program and its libraries: what runs in the guest besides busybox. */
  readonly programs: readonly { readonly path: string; readonly content: Uint8Array }[];
  /** Starts the servers and goes on. */
  readonly script: string;
}

export interface NetFloor {
  /** Ends QEMU and removes the tap. */
  stop(): Promise<void>;
}

/** Resolves when the guest's servers run. The caller stops it. */
export async function startNetFloor(init: NetFloorInit): Promise<NetFloor> {
  const { world, pod } = init;
  const initrd = join(world.dir, "net-floor.img");
  writeFileSync(initrd, cpioArchive(await initrdEntries(init), 0));
  await wireByHand(pod);
  const mac = init.result.interfaces.find(({ name, sandbox }) => name === "eth0" && sandbox)?.mac;
  if (mac === undefined) throw new Error("the plugin named no eth0 in the pod");
  const nic = [
    ...["-netdev", `tap,id=net0,ifname=${TAP},script=no,downscript=no,vhost=off`],
    ...["-device", `virtio-net-pci,netdev=net0,mac=${mac},romfile=`, "-serial", "stdio"],
  ];
  const command = [...floorCommand(init.sandbox, initrd), ...nic];
  const end = await startQemu(world.enter(["ip", "netns", "exec", pod.name, ...command]));
  return {
    stop: async () => {
      await end();
      await pod.inside("ip", "link", "del", TAP);
      await pod.inside("tc", "qdisc", "del", "dev", "eth0", "ingress");
    },
  };
}

/** What the model tcfilter does, with the tools. */
async function wireByHand(pod: CniPod): Promise<void> {
  await pod.inside("ip", "tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr");
  await pod.inside("ip", "link", "set", TAP, "up");
  for (const [from, to] of [
    ["eth0", TAP],
    [TAP, "eth0"],
  ] as const) {
    await pod.inside("tc", "qdisc", "add", "dev", from, "ingress");
    const all = ["protocol", "all", "u32", "match", "u8", "0", "0"];
    const redirect = ["action", "mirred", "egress", "redirect", "dev", to];
    await pod.inside("tc", "filter", "add", "dev", from, "parent", "ffff:", ...all, ...redirect);
  }
}

/** Gives what ends it, once the guest said that it is ready. @throws with the console's text when it does not. */
function startQemu(argv: readonly string[]): Promise<() => Promise<void>> {
  const [file = "", ...args] = argv;
  // A process group of its own: nsenter stands between this process and QEMU.
  const child = spawn(file, args, { detached: true, stdio: ["ignore", "pipe", "pipe"] });
  const closed = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const end = async () => {
    if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, "SIGKILL");
    await closed;
  };
  return new Promise((resolve, reject) => {
    let text = "";
    const fail = (why: string) => {
      clearTimeout(timer);
      reject(new Error(`the floor's QEMU ${why}; it printed:\n${text}`));
    };
    const timer = setTimeout(() => {
      void end();
      fail("did not become ready in time");
    }, BOOT_LIMIT_MS);
    const read = (chunk: Buffer) => {
      text += chunk.toString();
      if (!text.includes(READY)) return;
      clearTimeout(timer);
      resolve(end);
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.once("error", (error) => fail(`did not start: ${error.message}`));
    child.once("close", () => fail("ended"));
  });
}

async function initrdEntries({ result, programs, script }: NetFloorInit): Promise<CpioEntry[]> {
  const address = result.ips.find((ip) => !ip.address.includes(":"));
  if (address?.gateway === undefined) throw new Error("the plugin gave no IPv4 address with a gateway");
  const modules = driverPaths();
  const files = [
    { path: "/bin/busybox", data: readFileSync(built.busybox) },
    ...programs.map(({ path, content }) => ({ path: `/${path}`, data: content })),
    ...modules.map((path) => ({ path: `/modules/${basename(path)}`, data: readFileSync(path) })),
    { path: "/init", data: Buffer.from(initScript(modules, address.address, address.gateway, script)) },
  ];
  const applets = (await runOk([built.busybox, "--list"])).stdout.trim().split("\n");
  const parents = files.flatMap(({ path }) => parentsOf(path));
  const directories = [...new Set([...parents, "/dev", "/etc", "/proc", "/sys", "/tmp"])].sort();
  return [
    ...directories.map((path) => ({ kind: "directory", path, mode: 0o755 }) as const),
    ...files.map((file) => ({ kind: "file", mode: 0o755, ...file }) as const),
    ...applets
      .filter((name) => name !== "busybox")
      .map((name) => ({ kind: "symlink", path: `/bin/${name}`, target: "busybox" }) as const),
  ];
}

function parentsOf(path: string): string[] {
  const parent = dirname(path);
  return parent === "/" ? [] : [...parentsOf(parent), parent];
}

/** The modules that a virtio NIC on PCI needs, each after those that it needs itself. */
function driverPaths(): string[] {
  const release = basename(dirname(realpathSync(built.kernel)));
  // A kernel that the set-up unpacked, else the system's.
  const unpacked = join(repositoryRoot, ".cache/kernel");
  const root = existsSync(join(unpacked, "lib/modules", release)) ? ["--dirname", unpacked] : [];
  const argv = [...root, "--set-version", release, "--show-depends", "--all", "virtio_pci", "virtio_net"];
  const listed = execFileSync("/sbin/modprobe", argv, { encoding: "utf8" });
  return [...new Set([...listed.matchAll(/^insmod (\S+)/gm)].map((match) => match[1] ?? ""))];
}

function initScript(modules: readonly string[], address: string, gateway: string, script: string): string {
  const lines = [
    "#!/bin/sh",
    "export PATH=/bin:/usr/bin",
    "mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmp /tmp",
    ...modules.map((path) => `insmod /modules/${basename(path)}`),
    "ip link set lo up; ip link set eth0 up",
    `ip addr add ${address} dev eth0; ip route add default via ${gateway}`,
    script,
    `echo ${READY}`,
    "exec sleep 10000",
  ];
  return `${lines.join("\n")}\n`;
}
