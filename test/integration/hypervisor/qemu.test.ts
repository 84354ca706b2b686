/** The real QEMU with a real kernel, in software emulation. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { SandboxError } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import { checkPaths, loadConfig, type ResolvedPaths } from "../../../src/config/index.ts";
import type { RunningVm, VmConfig } from "../../../src/hypervisor/hypervisor.ts";
import { findQboot } from "../../../src/hypervisor/qemu/firmware.ts";
import { QemuHotplug } from "../../../src/hypervisor/qemu/hotplug.ts";
import { QemuHypervisor } from "../../../src/hypervisor/qemu/launch.ts";
import type { JsonObject } from "../../../src/qmp/messages.ts";
import { built } from "../../harness/paths.ts";
import { writeGuestInitrd } from "./guest-initrd.ts";
import { openTapQueues } from "./tap-queues.ts";

let root: string;
let initrd: string;
let paths: ResolvedPaths;
let hypervisor: QemuHypervisor;
let runs = 0;

before(async () => {
  root = mkdtempSync(join(tmpdir(), "caisson-qemu-"));
  initrd = join(root, "initrd");
  writeGuestInitrd(initrd);
  const config = await loadConfig({ env: {}, searchPaths: [] });
  paths = checkPaths({ ...config, hypervisor: { ...config.hypervisor, kernel: built.kernel, initrd } });
  hypervisor = new QemuHypervisor({ path: paths.qemu, log: silentLog });
});
after(() => rmSync(root, { recursive: true }));

/** A machine in an empty run directory of its own. */
function machine(changes: Partial<VmConfig> = {}): VmConfig {
  const runDir = mkdtempSync(join(root, `run${++runs}-`));
  return {
    name: "test",
    runDir,
    accel: "tcg",
    cpus: 1,
    maxCpus: 2,
    memoryMiB: 256,
    maxMemoryMiB: 1024,
    kernel: paths.kernel,
    initrd,
    firmware: findQboot(paths.qemu),
    kernelParams: [],
    nics: [],
    rootPorts: 2,
    reclaimFreedMemory: true,
    seccomp: "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ...changes,
  };
}

const noAbort = new AbortController().signal;

function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** Resolves with the first console line that matches, rejects when the machine ends first. */
function watchConsole(): {
  onConsoleLine(line: string): void;
  line(pattern: RegExp, vm: RunningVm): Promise<string>;
} {
  const lines: string[] = [];
  let wake: () => void = () => undefined;
  return {
    onConsoleLine(line) {
      lines.push(line);
      wake();
    },
    async line(pattern, vm) {
      const ended = vm.crashed.then((error) => {
        throw error;
      });
      for (;;) {
        const found = lines.find((line) => pattern.test(line));
        if (found !== undefined) return found;
        const more = new Promise<void>((resolve) => {
          wake = resolve;
        });
        await Promise.race([more, ended]);
      }
    },
  };
}

test("a guest boots, is controlled by QMP, powers off, and leaves console, exit and an empty directory", async () => {
  const console = watchConsole();
  const config = machine({ onConsoleLine: console.onConsoleLine });
  await using vm = await hypervisor.launch(config, noAbort);
  assert.ok(isRunning(vm.pid));
  assert.deepEqual(readdirSync(config.runDir), [], "the QMP socket's path is gone");
  const qmp = await vm.qmp;
  assert.ok(qmp.version.major >= 7, JSON.stringify(qmp.version));
  assert.equal((await qmp.execute("query-status")).status, "running");
  assert.equal((await qmp.execute("query-kvm")).enabled, false);
  assert.equal((await qmp.execute("query-hotpluggable-cpus")).length, 2);
  await assert.rejects(
    qmp.execute("device_del", { id: "absent" }),
    (error) =>
      error instanceof SandboxError && error.code === "ERR_NOT_FOUND" && /absent/.test(error.message),
  );
  const stopped = qmp.waitFor("STOP", () => true, AbortSignal.timeout(10_000));
  await qmp.execute("stop");
  await stopped;
  await qmp.execute("cont");
  const shutdown = qmp.waitFor("SHUTDOWN", (data) => data.guest, AbortSignal.timeout(60_000));
  await console.line(/^guest: up/, vm);
  const memory = await console.line(/^MemTotal/, vm);
  assert.ok(Number(/(\d+) kB/.exec(memory)?.[1]) > 180 * 1024, `no bounce buffer was set aside: ${memory}`);
  assert.equal((await shutdown).reason, "guest-shutdown");
  const exit = await vm.exited;
  assert.deepEqual([exit.code, exit.requested, exit.stderrTail], [0, false, ""]);
  assert.match(vm.lastWords(), /^end of the guest's console:\n[\s\S]*guest: leaving/);
  const crash = await vm.crashed;
  assert.equal(crash.code, "ERR_UNAVAILABLE");
  assert.match(crash.message, /^QEMU exited with code 0\nend of the guest's console:[\s\S]*guest: leaving/);
  assert.equal((await qmp.closed).code, "ERR_UNAVAILABLE");
});

test("SeaBIOS starts the same kernel, and kill() ends a guest that would stay", async () => {
  const console = watchConsole();
  const vm = await hypervisor.launch(
    machine({ firmware: undefined, kernelParams: ["test.stay"], onConsoleLine: console.onConsoleLine }),
    noAbort,
  );
  await console.line(/guest: up/, vm);
  const exit = await vm.kill();
  assert.deepEqual([exit.signal, exit.requested], ["SIGKILL", true]);
  assert.equal(isRunning(vm.pid), false);
});

test("NICs, vCPUs and memory plugged into a running machine reach the guest, and a NIC can be taken away", async () => {
  const console = watchConsole();
  const signal = noAbort;
  const config = machine({
    kernelParams: ["test.hotplug"],
    rootPorts: 2,
    onConsoleLine: console.onConsoleLine,
  });
  await using vm = await hypervisor.launch(config, signal);
  const qmp = await vm.qmp;
  const hotplug = new QemuHotplug(qmp, config);
  const begin = await console.line(/^guest: nics=0 cpus=1/, vm);
  // Newer kernels (seen: 6.12) ignore vCPUs that are not there yet unless they run on KVM: then QMP's answer is all there is.
  const cpus = begin.endsWith("possible=0") ? 1 : 2;
  await using taps = await openTapQueues(2);
  const nic = { mac: "0a:58:0a:00:00:01", mtu: 1400, tapFds: taps.fds, vhostFds: [] };

  const plugged = await hotplug.plugNic(nic, signal);
  await console.line(/^guest: nics=1 cpus=1/, vm);
  assert.equal(hotplug.freePorts, 1);
  assert.equal(await hotplug.addCpus(4, signal), 1, "the machine's maximum is 2");
  await console.line(new RegExp(`^guest: nics=1 cpus=${cpus}`), vm);
  await hotplug.unplugNic(plugged, signal);
  await console.line(new RegExp(`^guest: nics=0 cpus=${cpus}`), vm);
  assert.equal(hotplug.freePorts, 2);

  // A refused NIC leaves neither its backend nor its port behind.
  await using spent = await openTapQueues(2);
  const refused = { ...nic, mac: "nonsense", tapFds: spent.fds };
  await assert.rejects(hotplug.plugNic(refused, signal), /QEMU refused device_add: .*mac/);
  assert.equal(hotplug.freePorts, 2);
  await using fresh = await openTapQueues(2);
  await hotplug.plugNic({ ...nic, tapFds: fresh.fds }, signal);
  await console.line(new RegExp(`^guest: nics=1 cpus=${cpus}`), vm);
});

test("a NIC that the guest lets go of only after the deadline leaves nothing, and may be asked for again", async (t) => {
  const console = watchConsole();
  const signal = noAbort;
  const config = machine({
    kernelParams: ["test.hotplug"],
    rootPorts: 1,
    onConsoleLine: console.onConsoleLine,
  });
  await using vm = await hypervisor.launch(config, signal);
  const qmp = await vm.qmp;
  const hotplug = new QemuHotplug(qmp, config);
  await console.line(/^guest: nics=0/, vm);
  for (const again of [false, true]) {
    await using taps = await openTapQueues(1);
    const plugged = await hotplug.plugNic(
      { mac: "0a:58:0a:00:00:02", mtu: 1400, tapFds: taps.fds, vhostFds: [] },
      signal,
    );
    await console.line(/^guest: nics=1/, vm);
    await qmp.execute("stop");
    process.env.CAISSON_TIMEOUT_SCALE = "0.03";
    t.after(() => delete process.env.CAISSON_TIMEOUT_SCALE);
    await assert.rejects(
      hotplug.unplugNic(plugged, signal),
      (error) => error instanceof SandboxError && error.code === "ERR_DEADLINE",
    );
    delete process.env.CAISSON_TIMEOUT_SCALE;
    assert.equal(hotplug.freePorts, 0);
    const deleted = qmp.waitFor("DEVICE_DELETED", (data) => data.device === plugged.id, signal);
    await qmp.execute("cont");
    if (again) await hotplug.unplugNic(plugged, signal);
    await console.line(/^guest: nics=0/, vm);
    await deleted;
    assert.equal(hotplug.freePorts, 1);
    await assert.rejects(
      qmp.execute("netdev_del", { id: `${plugged.id}-net` }),
      (error) => error instanceof SandboxError && error.code === "ERR_NOT_FOUND",
    );
  }
});

test("memory is offered by one device, plugged when first needed, within the machine's maximum", async () => {
  const signal = noAbort;
  const config = machine({ kernelParams: ["test.stay"], rootPorts: 1 });
  await using vm = await hypervisor.launch(config, signal);
  const qmp = await vm.qmp;
  const hotplug = new QemuHotplug(qmp, config);
  const device = async () => (await qmp.execute("query-memory-devices"))[0]?.data as JsonObject | undefined;
  const beyond = (error: unknown) =>
    error instanceof SandboxError && error.code === "ERR_HOST" && /QEMU refused/.test(error.message);

  await hotplug.setAddedMemory(0, signal);
  assert.deepEqual([await device(), hotplug.freePorts], [undefined, 1], "nothing is plugged for nothing");
  await hotplug.setAddedMemory(256, signal);
  assert.equal((await device())?.["requested-size"], 256 << 20);
  assert.equal((await device())?.["max-size"], (1024 - 256) << 20);
  assert.equal(hotplug.freePorts, 0);
  await hotplug.setAddedMemory(768, signal);
  assert.equal((await device())?.["requested-size"], 768 << 20);
  await assert.rejects(hotplug.setAddedMemory(896, signal), beyond);
  await hotplug.setAddedMemory(0, signal);
  assert.equal((await device())?.["requested-size"], 0);
});

test("stop() lets QEMU end in order", async () => {
  const vm = await hypervisor.launch(machine({ kernelParams: ["test.stay"] }), noAbort);
  await vm.qmp;
  const exit = await vm.stop();
  assert.deepEqual([exit.code, exit.requested], [0, true]);
});

test("an option that QEMU refuses ends with its own words, at once", async () => {
  const begun = performance.now();
  const vm = await hypervisor.launch(machine({ machineOptions: "nonsense=on" }), noAbort);
  const crash = await vm.crashed;
  assert.match(crash.message, /^QEMU exited with code 1\nQEMU's stderr:\n.*nonsense/);
  assert.ok(performance.now() - begun < 5000);
  await assert.rejects(vm.qmp, (error) => error instanceof SandboxError && error.code === "ERR_UNAVAILABLE");
});

test("a QEMU that is missing is an error of launch() that names it, and leaves nothing", async () => {
  const config = machine();
  const absent = new QemuHypervisor({ path: "/nonexistent/qemu-system-x86_64", log: silentLog });
  await assert.rejects(
    absent.launch(config, noAbort),
    (error) =>
      error instanceof SandboxError &&
      error.code === "ERR_HOST" &&
      error.message === "cannot start qemu: /nonexistent/qemu-system-x86_64 is not found",
  );
  assert.deepEqual(readdirSync(config.runDir), []);
});

test("launch() does nothing when it was canceled before", async () => {
  await assert.rejects(hypervisor.launch(machine(), AbortSignal.abort()), (error) => {
    return error instanceof SandboxError && error.code === "ERR_CANCELED";
  });
});

test("QEMU dies with the process that started it", async () => {
  const program = fileURLToPath(new URL("./fixtures/parent-of-qemu.ts", import.meta.url));
  const config = machine({ kernelParams: ["test.stay"] });
  const parent = spawn(process.execPath, ["--import", "tsx", program, paths.qemu, JSON.stringify(config)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const pid = await new Promise<number>((resolve) =>
    parent.stdout.once("data", (chunk: Buffer) => resolve(Number(chunk.toString()))),
  );
  assert.ok(isRunning(pid));
  parent.kill("SIGKILL");
  const deadline = performance.now() + 5000;
  while (isRunning(pid) && performance.now() < deadline) await new Promise((done) => setTimeout(done, 5));
  assert.equal(isRunning(pid), false);
});
