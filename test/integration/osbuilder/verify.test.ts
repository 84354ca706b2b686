/** `osbuilder verify` with the real agent, hypervisor, virtiofsd and vsock backend. Needs `npm run setup`. */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { watch } from "node:fs";
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { promisify } from "node:util";
import type { GenerateResult } from "../../../osbuilder/generate.ts";
import type { VerifyResult } from "../../../osbuilder/verify.ts";
import { VERSION } from "../../../src/base/version.ts";
import { built, guestKernelArguments, repositoryRoot } from "../../harness/paths.ts";

const run = promisify(execFile);
const program = ["--import", "tsx", join(repositoryRoot, "src/bin/osbuilder.ts")];

let dir = "";
let imageDir = "";
let runRoot = "";
let verifyArguments: string[] = [];
let image: GenerateResult;

before(async () => {
  dir = await mkdtemp(join(tmpdir(), "caisson-verify-")); // short: sockets are made in it
  imageDir = join(dir, "images");
  runRoot = join(dir, "run");
  await mkdir(runRoot);
  const config = join(dir, "configuration.toml");
  await writeFile(config, `[hypervisor.qemu]\nvhost_user_vsock_daemon = "${built.vsockBackend}"\n`);
  verifyArguments = ["verify", "current", "--image-dir", imageDir, "--config", config, "--json"];
  image = await generate();
});
after(() => rm(dir, { recursive: true, force: true }));

function osbuilder(args: readonly string[]): Promise<{ stdout: string; stderr: string }> {
  return run(process.execPath, [...program, ...args], { env: { ...process.env, CAISSON_RUN_ROOT: runRoot } });
}

async function generate(...args: string[]): Promise<GenerateResult> {
  const { stdout } = await osbuilder([
    "generate",
    ...guestKernelArguments(),
    "--image-dir",
    imageDir,
    "--json",
    ...args,
  ]);
  return JSON.parse(stdout) as GenerateResult;
}

/** No run directory, no mount, no process of a verification is left. */
async function assertNothingLeft(): Promise<void> {
  assert.deepEqual(await readdir(runRoot), []);
  assert.doesNotMatch(await readFile("/proc/self/mountinfo", "utf8"), new RegExp(runRoot));
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    const commandLine = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    assert.ok(!commandLine.includes(runRoot), commandLine.replaceAll("\0", " "));
  }
}

test("verify boots the image to the agent's hello and leaves nothing behind", async () => {
  const { stdout } = await osbuilder(verifyArguments);
  const result = JSON.parse(stdout) as VerifyResult;
  assert.equal(result.kernelRelease, image.manifest.kernel.release);
  assert.equal(result.agentVersion, VERSION);
  assert.ok((result.hostSteps.hello ?? 0) > 0);
  await assertNothingLeft();
});

for (const delayMs of [0, 150]) {
  test(`verify that is interrupted ${delayMs} ms after it began leaves nothing behind`, async () => {
    const env = { ...process.env, CAISSON_RUN_ROOT: runRoot };
    const began = once(watch(runRoot, { persistent: false }), "change"); // its run directory was made
    const child = spawn(process.execPath, [...program, ...verifyArguments], { env, stdio: "ignore" });
    const ended = once(child, "close");
    await began;
    await setTimeout(delayMs);
    child.kill("SIGTERM");
    assert.deepEqual(await ended, [1, null]);
    await assertNothingLeft();
  });
}

test("verify shows the end of the guest's console when the guest ends before its hello", async () => {
  const init = join(dir, "init");
  const source = join(repositoryRoot, "test/integration/osbuilder/fixtures/init.c");
  await run("gcc", ["-static", "-Os", "-o", init, source]);
  await generate("--agent", init);
  await assert.rejects(osbuilder(verifyArguments), {
    code: 1,
    stderr:
      /osbuilder: the guest did not boot: QEMU exited with code 0[\s\S]*end of the guest's console:[\s\S]*\nend\n/,
  });
  await assertNothingLeft();
});

test("verify refuses an image whose files do not match the manifest, before it boots", async () => {
  await appendFile(image.initrd, "x");
  await assert.rejects(osbuilder(verifyArguments), {
    code: 1,
    stderr: /is damaged: .*caisson-initrd\.img was changed or is damaged; osbuilder generate builds it anew/,
  });
});
