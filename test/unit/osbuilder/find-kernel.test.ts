import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import {
  compareReleases,
  findKernel,
  installedReleases,
  parseKernelConfig,
} from "../../../osbuilder/find-kernel.ts";
import { makeHost, temporaryDirectory, writeTree } from "./fixtures.ts";

test("compareReleases() orders by number, not by character", () => {
  const sorted = ["6.10.0-1", "6.9.0-10", "6.9.0-9", "5.19.0", "6.9.0-9-cloud"].sort(compareReleases);
  assert.deepEqual(sorted, ["5.19.0", "6.9.0-9", "6.9.0-9-cloud", "6.9.0-10", "6.10.0-1"]);
});

test("findKernel() takes the running kernel where it has modules", async (t) => {
  const root = await temporaryDirectory(t);
  await makeHost(root, { release: "7.0.0" });
  const places = await makeHost(root, { release: "6.1.0-9" });
  const kernel = await findKernel({}, places);
  assert.equal(kernel.release, "6.1.0-9");
  assert.equal(kernel.reason, "the running kernel");
  assert.equal(kernel.config?.get("CONFIG_DEVTMPFS"), "y");
});

test("findKernel() takes the newest installed where the running kernel has no modules, and says so", async (t) => {
  const root = await temporaryDirectory(t);
  await makeHost(root, { release: "6.1.0-9" });
  const places = { ...(await makeHost(root, { release: "6.1.0-10" })), runningRelease: "5.0.0-own" };
  const kernel = await findKernel({}, places);
  assert.equal(kernel.release, "6.1.0-10");
  assert.match(kernel.reason, /newest installed; the running 5\.0\.0-own has no modules/);
  assert.deepEqual(await installedReleases(places), ["6.1.0-10", "6.1.0-9"]);
});

test("findKernel() finds the image beside the modules where /boot has none", async (t) => {
  const root = await temporaryDirectory(t);
  const places = await makeHost(root);
  const boot = join(places.bootDir, "vmlinuz-6.1.0-test");
  const { readFile } = await import("node:fs/promises");
  await writeTree(root, { "lib/modules/6.1.0-test/vmlinuz": await readFile(boot) });
  await rm(boot);
  const kernel = await findKernel({}, places);
  assert.equal(kernel.image.path, join(places.modulesRoot, "6.1.0-test/vmlinuz"));
});

test("findKernel() names the places where it looked and what is installed", async (t) => {
  const root = await temporaryDirectory(t);
  const places = await makeHost(root);
  await assert.rejects(findKernel({ release: "9.9" }, places), {
    code: "ERR_NOT_FOUND",
    message: /kernel 9\.9 has no modules in .*\/9\.9; installed are 6\.1\.0-test/,
  });
  await assert.rejects(
    findKernel({ modulesDir: root }, places),
    /holds neither modules\.dep nor modules\.order/,
  );
  await rm(join(places.bootDir, "vmlinuz-6.1.0-test"));
  await assert.rejects(
    findKernel({}, places),
    /no image of kernel 6\.1\.0-test: looked for .*--kernel-image/,
  );
  const nowhere = { ...places, modulesRoot: join(root, "none") };
  await assert.rejects(
    findKernel({}, nowhere),
    /holds no kernel; on Debian: apt install linux-image-cloud-amd64/,
  );
});

test("findKernel() refuses an image and modules of different kernels", async (t) => {
  const root = await temporaryDirectory(t);
  await makeHost(root, { release: "7.0.0" });
  const places = await makeHost(root);
  const image = join(places.bootDir, "vmlinuz-7.0.0");
  await assert.rejects(findKernel({ image }, places), {
    code: "ERR_INVALID_ARGUMENT",
    message: /vmlinuz-7\.0\.0 is kernel 7\.0\.0, but the modules in .* are of 6\.1\.0-test/,
  });
});

test("parseKernelConfig() keeps what is set", () => {
  const config = parseKernelConfig('CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_D="text"\n');
  assert.deepEqual(
    [...config],
    [
      ["CONFIG_A", "y"],
      ["CONFIG_C", "m"],
      ["CONFIG_D", '"text"'],
    ],
  );
});
