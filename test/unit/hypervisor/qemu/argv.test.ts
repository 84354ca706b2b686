import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { SandboxError } from "../../../../src/base/errors.ts";
import type { VmConfig } from "../../../../src/hypervisor/hypervisor.ts";
import { qemuCommand } from "../../../../src/hypervisor/qemu/argv.ts";
import { podParts } from "../../../../src/hypervisor/qemu/pod-devices.ts";

const minimal: VmConfig = {
  name: "sandbox-1",
  runDir: "/run/caisson/1",
  accel: "tcg",
  cpus: 1,
  maxCpus: 1,
  memoryMiB: 512,
  maxMemoryMiB: 512,
  kernel: { path: "/img/vmlinuz", format: "bzImage" },
  initrd: "/img/initrd",
  kernelParams: [],
  nics: [],
  rootPorts: 0,
  seccomp: "",
};

/** As the shim makes them on a host with KVM, vhost-net and vhost-vsock. */
const vhost: VmConfig = {
  ...minimal,
  accel: "kvm",
  cpus: 2,
  maxCpus: 8,
  maxMemoryMiB: 16384,
  kernel: { path: "/img/vmlinux", format: "vmlinux" },
  firmware: "/usr/share/qemu/qboot.rom",
  kernelParams: ["caisson.log=debug"],
  sharedFs: [
    { socketPath: "/run/caisson/1/fs.sock", tag: "caissonShared", queueSize: 1024 },
    { socketPath: "/run/caisson/1/roots.sock", tag: "caissonRoots", queueSize: 1024 },
  ],
  vsock: { kind: "vhost-vsock", fd: 21, guestCid: 1234 },
  nics: [
    { mac: "0a:58:0a:01:02:03", mtu: 1450, tapFds: [30, 31], vhostFds: [40, 41] },
    { mac: "0a:58:0a:01:02:04", mtu: 9000, tapFds: [32], vhostFds: [42] },
  ],
  rootPorts: 2,
  reclaimFreedMemory: true,
  seccomp: "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
};

const cases: Record<string, VmConfig> = {
  minimal,
  "kvm-vhost": vhost,
  // A host without KVM, vhost-net and vhost-vsock.
  "tcg-user-backends": {
    ...vhost,
    accel: "tcg",
    tscKhz: 2_596_100,
    vsock: { kind: "vhost-user-vsock", socketPath: "/run/caisson/1/vsock.sock" },
    nics: [{ mac: "0a:58:0a:01:02:03", mtu: 1500, tapFds: [30], vhostFds: [] }],
  },
  "every-option": {
    ...vhost,
    name: "a,b",
    hugepages: true,
    preallocate: true,
    tracefs: true,
    verboseConsole: true,
    cpuFeatures: "vmx=off",
    machineOptions: "smm=off",
  },
};

for (const [name, config] of Object.entries(cases)) {
  test(`qemuCommand() of ${name} is test/golden/qemu/${name}.args`, () => {
    const { args } = qemuCommand(config, 9);
    const lines = args.map((arg, index) => (arg.startsWith("-") && index > 0 ? `\n${arg}` : ` ${arg}`));
    const text = `${lines.join("").trimStart()}\n`;
    const golden = new URL(`../../../golden/qemu/${name}.args`, import.meta.url);
    if (process.env.UPDATE_GOLDEN === "1") writeFileSync(golden, text);
    assert.equal(text, readFileSync(golden, "utf8"));
  });
}

test("qemuCommand() hands over its descriptors in the order of the numbers on the command line", () => {
  const { args, fds } = qemuCommand(vhost, 9);
  assert.deepEqual(
    [...fds].sort((a, b) => a - b),
    [9, 21, 30, 31, 32, 40, 41, 42],
  );
  const inChild = (fd: number) => String(fds.indexOf(fd) + 3);
  const text = args.join(" ");
  assert.ok(text.includes(`socket,id=qmp,fd=${inChild(9)},server=on`));
  assert.ok(text.includes(`guest-cid=1234,vhostfd=${inChild(21)}`));
  assert.ok(
    text.includes(`fds=${inChild(30)}:${inChild(31)},vhost=on,vhostfds=${inChild(40)}:${inChild(41)}`),
  );
  assert.ok(text.includes(`fd=${inChild(32)},vhost=on,vhostfd=${inChild(42)}`));
});

/** Without values in which a pod's machine may differ from that of its template. */
function make(config: VmConfig): string[] {
  const { args } = qemuCommand(config, 9);
  const at = args.indexOf("-object");
  const own = (arg: string, index: number) =>
    index === at + 1 ||
    arg === "-D" ||
    arg.endsWith("/qemu.log") ||
    arg.startsWith("socket,id=qmp") ||
    arg.startsWith("guest=");
  const start = args.findIndex((arg) => arg === "-kernel" || arg === "-incoming");
  const words = args[start] === "-kernel" ? 6 : 2;
  return args.filter((arg, index) => (index < start || index >= start + words) && !own(arg, index));
}

test("qemuCommand() makes a machine that goes on as it makes that of its template", () => {
  const { sharedFs: _, vsock: __, ...rest } = vhost;
  const template = make({ ...rest, template: true, nics: [] });
  const saved = { stateFd: 50, filled: Promise.resolve() };
  assert.deepEqual(make({ ...vhost, saved, memoryFd: 51 }), template);
  assert.ok(template.includes("pcie-root-port,id=pod,bus=pcie.0,chassis=3,slot=3,addr=1e"));
});

test("qemuCommand() leaves what is a pod's to be plugged in a machine that goes on", () => {
  const saved = { stateFd: 50, filled: Promise.resolve() };
  const { args, fds, stateFd } = qemuCommand({ ...vhost, saved, memoryFd: 51 }, 9);
  const inChild = (fd: number) => fds.indexOf(fd) + 3;
  const text = args.join(" ");
  assert.doesNotMatch(text, /vhost-|virtio-net|netdev|-kernel|-initrd|-append/);
  assert.match(text, /-incoming defer/);
  assert.ok(
    text.includes(`memory-backend-file,id=ram,size=512M,mem-path=/proc/self/fd/${inChild(51)},share=on`),
  );
  assert.equal(stateFd, inChild(50));
});

test("podParts() names descriptors as it is told, and has what devices use before them", () => {
  const { chardevs, netdevs, devices } = podParts(vhost, (fd) => `fd${fd}`);
  assert.deepEqual(chardevs, [
    { id: "share0", path: "/run/caisson/1/fs.sock" },
    { id: "share1", path: "/run/caisson/1/roots.sock" },
  ]);
  assert.deepEqual(netdevs, [
    { id: "net0", tapFds: ["fd30", "fd31"], vhostFds: ["fd40", "fd41"] },
    { id: "net1", tapFds: ["fd32"], vhostFds: ["fd42"] },
  ]);
  assert.deepEqual(
    devices.map(({ device }) => device),
    ["vhost-user-fs-pci", "vhost-user-fs-pci", "vhost-vsock-pci", "virtio-net-pci", "virtio-net-pci"],
  );
});

for (const origin of ["boots", "goes on"]) {
  test(`qemuCommand() names its directory in the command line of a machine that ${origin}`, () => {
    const saved = { stateFd: 50, memoryFd: 51, filled: Promise.resolve() };
    const { args } = qemuCommand(origin === "boots" ? vhost : { ...vhost, saved }, 9);
    assert.ok(args.some((arg) => arg.includes("/run/caisson/1/")));
  });
}

test("qemuCommand() keeps a value with commas from becoming options", () => {
  const { args } = qemuCommand({ ...vhost, name: "x,debug-threads=off" }, 9);
  assert.ok(args.includes("guest=x,,debug-threads=off,debug-threads=on"));
});

test("qemuCommand() refuses machines that make no sense, naming what", () => {
  const nic = { mac: "0a:58:0a:01:02:03", mtu: 1500, tapFds: [30, 31], vhostFds: [40] };
  const refusals: [Partial<VmConfig>, RegExp][] = [
    [{ cpus: 0 }, /0 vCPUs/],
    [{ cpus: 4, maxCpus: 2 }, /4 vCPUs of at most 2/],
    [{ memoryMiB: 600 }, /600 MiB of at most 512 MiB/],
    [{ nics: [nic] }, /1 vhost descriptors for 2 queues of the NIC 0a:58/],
    [{ nics: [{ ...nic, tapFds: [], vhostFds: [] }] }, /no tap descriptor/],
    [
      { sharedFs: [{ socketPath: "/s", tag: "t".repeat(37), queueSize: 64 }] },
      /tag of other than 1 to 36 bytes/,
    ],
  ];
  for (const [change, message] of refusals) {
    assert.throws(
      () => qemuCommand({ ...minimal, ...change }, 9),
      (error) =>
        error instanceof SandboxError && error.code === "ERR_INVALID_ARGUMENT" && message.test(error.message),
      String(message),
    );
  }
});

test("the guest's kernel makes the files of its trace events only where they are asked for", () => {
  const skipped = (config: VmConfig) =>
    /initcall_blacklist=(\S*)/.exec(qemuCommand(config, 9).args.join(" "))?.[1]?.split(",") ?? [];
  assert.ok(skipped(minimal).includes("tracer_init_tracefs"));
  assert.ok(!skipped({ ...minimal, tracefs: true }).includes("tracer_init_tracefs"));
});

test("the kernel command line ends with the configured parameters, which therefore win", () => {
  const { args } = qemuCommand({ ...minimal, kernelParams: ["quiet=0", "panic=5"] }, 9);
  const append = args[args.indexOf("-append") + 1] ?? "";
  assert.ok(append.endsWith(" quiet quiet=0 panic=5"), append);
  assert.equal(append.includes("memhp_default_state"), false, "no memory can be plugged");
});
