import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { type LoadConfigInit, loadConfig } from "../../../src/config/index.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "caisson-config-"));
});
afterEach(() => rmSync(root, { recursive: true }));

function file(name: string, text: string): string {
  const path = join(root, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  return path;
}

/** Loads without looking at the machine: search below the test's own directory, empty environment. */
const load = (init: LoadConfigInit = {}) =>
  loadConfig({ env: {}, searchPaths: [join(root, "etc/c.toml"), join(root, "usr/c.toml")], ...init });

const configError =
  (...texts: string[]) =>
  (error: unknown) => {
    assert.ok(error instanceof SandboxError, String(error));
    assert.equal(error.code, "ERR_CONFIG");
    for (const text of texts) assert.ok(error.message.includes(text), `"${error.message}" lacks "${text}"`);
    return true;
  };

test("without any file the built-in defaults hold", async () => {
  const config = await load();
  assert.deepEqual(config.files, []);
  assert.deepEqual(config.origins, {});
  assert.equal(config.hypervisor.accel, "auto");
  assert.equal(config.hypervisor.defaultMemory, 512);
  assert.equal(config.hypervisor.kernel, "/var/cache/caisson/vmlinuz.container");
  assert.equal(config.hypervisor.initrd, "/var/cache/caisson/caisson-initrd.img");
  assert.equal(config.agent.debugConsoleEnabled, true);
  assert.deepEqual(config.hypervisor.enableAnnotations, []);
});

test("the result is frozen to its depth", async () => {
  const config = await load({ path: file("c.toml", '[agent.caisson]\nkernel_modules = ["nf_nat"]') });
  for (const part of [config, config.hypervisor, config.agent.kernelModules, config.origins, config.files]) {
    assert.ok(Object.isFrozen(part));
  }
});

test("a named file wins over the environment, that over the search path, and its first entry over the second", async () => {
  const memory = (size: number) => `[hypervisor.qemu]\ndefault_memory = ${size}`;
  file("usr/c.toml", memory(101));
  assert.equal((await load()).hypervisor.defaultMemory, 101);
  const etc = file("etc/c.toml", memory(102));
  const config = await load();
  assert.equal(config.hypervisor.defaultMemory, 102);
  assert.deepEqual(config.files, [etc]);
  const env = { CAISSON_CONF_FILE: file("env.toml", memory(103)) };
  assert.equal((await load({ env })).hypervisor.defaultMemory, 103);
  const named = file("named.toml", memory(104));
  assert.equal((await load({ env, path: named })).hypervisor.defaultMemory, 104);
});

test("a named file that is missing is an error, an empty name is none", async () => {
  const path = join(root, "absent.toml");
  await assert.rejects(load({ path }), configError(path, "does not exist"));
  await assert.rejects(load({ env: { CAISSON_CONF_FILE: path } }), configError(path));
  await assert.rejects(load({ path: "relative.toml" }), configError("absolute path"));
  assert.deepEqual((await load({ path: "" })).files, []);
});

test("drop-ins are laid over the file key by key, in the order of their names", async () => {
  const main = file(
    "a/c.toml",
    '[hypervisor.qemu]\ndefault_memory = 300\ndefault_vcpus = 2\nkernel_params = "a b"',
  );
  const second = file("a/config.d/20-b.toml", "[hypervisor.qemu]\ndefault_memory = 302");
  const first = file("a/config.d/10-a.toml", "[hypervisor.qemu]\ndefault_memory = 301\ndefault_vcpus = 3");
  file("a/config.d/note.txt", "not toml = = =");
  file("a/config.d/.30-hidden.toml", "not toml = = =");
  const config = await load({ path: main });
  assert.deepEqual(config.files, [main, first, second]);
  assert.deepEqual(
    [config.hypervisor.defaultMemory, config.hypervisor.defaultVcpus, config.hypervisor.kernelParams],
    [302, 3, "a b"],
  );
  assert.deepEqual(config.origins, {
    "hypervisor.qemu.default_memory": second,
    "hypervisor.qemu.default_vcpus": first,
    "hypervisor.qemu.kernel_params": main,
  });
});

test("an administrator's drop-ins count with the distribution's file, and with none", async () => {
  const dropIn = file("etc/config.d/x.toml", "[runtime]\nenable_debug = true");
  assert.equal((await load()).runtime.enableDebug, true);
  const shipped = file("usr/c.toml", "[runtime]\nenable_debug = false");
  const config = await load();
  assert.deepEqual(config.files, [shipped, dropIn]);
  assert.equal(config.runtime.enableDebug, true);
  const named = file("other/c.toml", "");
  assert.equal((await load({ path: named })).runtime.enableDebug, false, "not with a file that was named");
});

test("the image directory decides where kernel and initrd are, unless they are named", async () => {
  const path = file("c.toml", '[image]\ndir = "/srv/img"\n[hypervisor.qemu]\nkernel = "/boot/vmlinux"');
  const { hypervisor } = await load({ path });
  assert.deepEqual([hypervisor.kernel, hypervisor.initrd], ["/boot/vmlinux", "/srv/img/caisson-initrd.img"]);
});

test("unknown keys and tables are errors with file, path and a hint", async () => {
  const wrong = file(
    "c.toml",
    "[hypervisor.qemu]\ndefault_memry = 1\nzzz = 1\n[runtimes]\n[hypervisor.clh]\nx = 1\n",
  );
  await assert.rejects(
    load({ path: wrong }),
    configError(
      wrong,
      "hypervisor.qemu.default_memry is not a known key; did you mean default_memory?",
      "hypervisor.qemu.zzz is not a known key",
      "[hypervisor.clh] is not a known table",
    ),
  );
  const loose = file("d.toml", "default_memory = 1");
  await assert.rejects(load({ path: loose }), configError("keys belong to a table"));
  const odd = file("e.toml", "[runtime.inner]\nx = 1\n[hypervisor.qemu.more]\ny = 2");
  await assert.rejects(load({ path: odd }), configError("runtime.inner", "hypervisor.qemu.more"));
  // An inherited property is not a key.
  const proto = file("f.toml", "[runtime]\nconstructor = 1");
  await assert.rejects(load({ path: proto }), configError("runtime.constructor is not a known key"));
});

test("wrong types and values out of range are errors that say what is allowed", async () => {
  const cases = [
    ["default_memory = 63", "default_memory = 63", "64 to 1048576 MiB"],
    ['default_memory = "512"', 'default_memory = "512"', "64 to"],
    ["default_memory = 512.5", "512.5"],
    ["default_vcpus = -2", "-1 to 240"],
    ["virtio_fs_queue_size = 1000", "a power of two from 16 to 1024"],
    ['accel = "KVM"', 'accel = "KVM"', '"auto", "kvm" or "tcg"'],
    ["enable_debug = 1", "true or false"],
    ['path = "qemu"', "an absolute path or empty"],
    ['path = "/a\\u0000b"', "an absolute path or empty"],
    ['kernel_params = "a\\nb"', "printable ASCII"],
    ['cpu_features = "pmu=off -daemonize"', "without spaces"],
    ['seccompsandbox = "on,spawn=maybe"', "-sandbox syntax"],
    ['virtio_fs_extra_args = "--x"', "a list of strings"],
    ["virtio_fs_extra_args = [1]", "a list of strings"],
    ["kernel = 1979-05-27", "an absolute path"],
    ['firmware = "bios.bin"', '"seabios"'],
  ] as const;
  for (const [line, ...texts] of cases) {
    const path = file("c.toml", `[hypervisor.qemu]\n${line}\n`);
    await assert.rejects(load({ path }), configError(path, "hypervisor.qemu.", ...texts), line);
  }
});

test("values that contradict each other are errors", async () => {
  const path = file(
    "c.toml",
    "[hypervisor.qemu]\ndefault_vcpus = 4\ndefault_maxvcpus = 2\ndefault_memory = 600\ndefault_maxmemory = 512",
  );
  await assert.rejects(load({ path }), configError("default_vcpus = 4", "default_memory = 600"));
});

test("invalid TOML is an error with file, line and column", async () => {
  const path = file("c.toml", "[runtime]\nenable_debug = = true\n");
  await assert.rejects(load({ path }), configError(path, "line 2, column 16"));
});

test("a file that cannot be read is an error that names it", async () => {
  const path = join(root, "loop.toml");
  symlinkSync(path, path);
  await assert.rejects(load({ path }), configError(path, "cannot be read"));
});

test("a file of Kata's is accepted: same keys are honoured, others passed over with a warning where they matter", async () => {
  const path = file(
    "kata.toml",
    `[hypervisor.qemu]
path = "/usr/bin/qemu-system-x86_64"
image = "/usr/share/kata-containers/kata-containers.img"
machine_type = "q35"
enable_annotations = ["enable_iommu", "virtio_fs_extra_args", "kernel_params"]
valid_hypervisor_paths = ["/usr/bin/qemu-system-x86_64"]
default_vcpus = 1
default_bridges = 1
default_memory = 2048
default_maxmemory = 0
disable_block_device_use = false
shared_fs = "virtio-fs"
virtio_fs_cache_size = 0
block_device_driver = "virtio-scsi"
pflashes = []
enable_iommu = true
[factory]
[agent.kata]
kernel_modules = []
dial_timeout = 45
[runtime]
internetworking_model = "macvtap"
sandbox_cgroup_only = false
experimental = []
vfio_mode = "guest-kernel"
`,
  );
  const config = await load({ path });
  assert.equal(config.hypervisor.defaultMemory, 2048);
  assert.equal(config.agent.dialTimeout, 45);
  assert.equal(config.runtime.internetworkingModel, "macvtap");
  assert.deepEqual(
    config.warnings.map((warning) => /: (\S+) is ignored/.exec(warning)?.[1]),
    [
      "hypervisor.qemu.image",
      "hypervisor.qemu.valid_hypervisor_paths",
      "hypervisor.qemu.enable_iommu",
      "runtime.sandbox_cgroup_only",
    ],
  );
});
