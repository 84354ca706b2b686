/** Images of the installed kernel: built by the program itself, booted by QEMU (software emulation). */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import type { GenerateResult } from "../../../osbuilder/generate.ts";
import { built, guestKernelArguments } from "../../harness/paths.ts";

const run = promisify(execFile);
const repository = join(import.meta.dirname, "../../..");
const program = ["--import", "tsx", join(repository, "src/bin/osbuilder.ts")];
/** A boot takes 2 s on an idle machine; this is for a very busy one. */
const BOOT_LIMIT_MS = 90_000;

let dir = "";
let agent = "";

before(async () => {
  dir = await mkdtemp(join(tmpdir(), "caisson-osbuilder-boot-"));
  agent = join(dir, "init");
  await run("gcc", [
    "-static",
    "-Os",
    "-Wall",
    "-Werror",
    "-o",
    agent,
    join(import.meta.dirname, "fixtures/init.c"),
  ]);
});
after(() => rm(dir, { recursive: true, force: true }));

async function osbuilder(...args: string[]): Promise<{ stdout: string; stderr: string }> {
  return run(process.execPath, [...program, ...args], { maxBuffer: 1 << 26 });
}

async function generate(imageDir: string, ...args: string[]): Promise<GenerateResult> {
  const { stdout } = await osbuilder(
    "generate",
    ...guestKernelArguments(),
    "--agent",
    agent,
    "--image-dir",
    imageDir,
    "--json",
    ...args,
  );
  return JSON.parse(stdout) as GenerateResult;
}

/** The console of a VM that ran until its init powered it off. */
async function boot(kernel: string, initrd: string): Promise<string[]> {
  const qemu = spawn("qemu-system-x86_64", [
    ...["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256", "-bios", "/usr/share/qemu/qboot.rom"],
    ...["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"],
    ...["-device", "virtio-rng-pci", "-device", "virtio-balloon-pci", "-netdev", "user,id=n,restrict=on"],
    ...["-device", "virtio-net-pci,netdev=n,romfile=", "-device", "virtio-serial-pci"],
    ...["-kernel", kernel, "-initrd", initrd],
    ...["-append", "console=ttyS0 quiet panic=-1 cryptomgr.notests"],
  ]);
  let output = "";
  qemu.stdout.on("data", (chunk: Buffer) => (output += chunk.toString("latin1")));
  qemu.stderr.on("data", (chunk: Buffer) => (output += chunk.toString("latin1")));
  const limit = setTimeout(() => qemu.kill("SIGKILL"), BOOT_LIMIT_MS);
  try {
    const [status] = (await once(qemu, "close")) as [number | null];
    assert.equal(status, 0, `QEMU ended with ${status}:\n${output}`);
  } finally {
    clearTimeout(limit);
  }
  return output.split(/\r?\n/);
}

test("an image boots under qboot and every module in it loads in the listed order", async () => {
  const result = await generate(join(dir, "images"));
  const lines = await boot(result.kernel, result.initrd);
  const loaded = lines.filter((line) => line.startsWith("module "));
  const expected = result.manifest.modules.map((module) => `module ${module.when} ${module.path} 0`);
  assert.deepEqual(loaded, expected);
  const devices = lines
    .filter((line) => line.startsWith("virtio "))
    .map((line) => Number(line.split(" ")[1]));
  assert.deepEqual(devices.sort(), [1, 3, 4, 5]);
  assert.ok(lines.includes("vsock 0"), lines.join("\n"));
});

test("an initrd of each compression that the kernel supports boots", async () => {
  for (const compression of ["lz4", "gzip", "zstd"]) {
    const result = await generate(join(dir, "images"), "--compress", compression);
    const lines = await boot(result.kernel, result.initrd);
    assert.ok(lines.includes("end"), `${compression}: ${lines.join("\n")}`);
  }
});

test("two builds of the installed kernel are equal byte for byte and stay within the budget", async () => {
  const [one, two] = [await generate(join(dir, "one")), await generate(join(dir, "two"))];
  for (const name of await readdir(one.directory)) {
    const [a, b] = await Promise.all([one, two].map((result) => readFile(join(result.directory, name))));
    assert.ok(a !== undefined && b?.equals(a), name);
  }
  assert.ok(one.manifest.files["caisson-initrd.img"].bytes <= 5_000_000);
});

test("the initrd is what busybox's cpio reads", async () => {
  const { initrd } = await generate(join(dir, "images"));
  const { stdout } = await run("sh", ["-c", '"$2" cpio -t < "$1" 2>/dev/null', "sh", initrd, built.busybox]);
  const names = stdout.trimEnd().split("\n");
  for (const name of ["init", "dev/console", "etc/caisson/modules", "proc"])
    assert.ok(names.includes(name), name);
});

test("a run that is killed or interrupted leaves no lock and nothing that the next one does not remove", async () => {
  const imageDir = join(dir, "killed");
  for (const signal of ["SIGKILL", "SIGTERM"] as const) {
    const args = [
      ...program,
      "generate",
      ...guestKernelArguments(),
      "--agent",
      agent,
      "--image-dir",
      imageDir,
    ];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "ignore", "pipe"] });
    await once(child.stderr, "data"); // it is at work
    child.stderr.resume();
    child.kill(signal);
    await once(child, "close");
  }
  await generate(imageDir);
  const names = await readdir(join(imageDir, "osbuilder-images"));
  assert.equal(names.filter((name) => name.startsWith(".new-")).length, 0);
});

test("two runs at once both succeed, one after the other", async () => {
  const imageDir = join(dir, "both");
  const results = await Promise.all([generate(imageDir), generate(imageDir, "-c")]);
  assert.ok(results.some((result) => result.built));
  const { stdout } = await osbuilder("list", "--image-dir", imageDir);
  assert.match(stdout, /^\* {2}\S+/m);
});

test("exit status is 2 for wrong usage and 1 for failure, with one sentence on stderr", async () => {
  await assert.rejects(osbuilder("generate", "--nonsense"), {
    code: 2,
    stderr: /\nTry: osbuilder generate --help\n$/,
  });
  const failed = osbuilder(
    "generate",
    ...guestKernelArguments(),
    "--agent",
    "/nowhere",
    "--image-dir",
    join(dir, "x"),
  );
  await assert.rejects(failed, {
    code: 1,
    stderr: /osbuilder: the guest agent \/nowhere does not exist; npm run build/,
  });
});
