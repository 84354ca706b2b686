import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { findKernel } from "../../../osbuilder/find-kernel.ts";
import { type ModulePlan, planModules } from "../../../osbuilder/module-set.ts";
import { ModuleTree } from "../../../osbuilder/module-tree.ts";
import { goodConfig, goodModules, makeHost, temporaryDirectory } from "./fixtures.ts";

interface Setup {
  readonly modules?: Readonly<Record<string, readonly string[]>>;
  readonly config?: string;
  readonly extra?: readonly string[];
}

async function plan(
  context: TestContext,
  { modules = goodModules, config = goodConfig, extra = [] }: Setup = {},
) {
  const places = await makeHost(await temporaryDirectory(context), { modules, config });
  const kernel = await findKernel({}, places);
  return planModules(kernel, await ModuleTree.open(kernel.modulesDir, kernel.release), extra);
}

function lines(modulePlan: ModulePlan): string[] {
  return modulePlan.lines.map(({ when, module }) => `${when} ${module.name}`);
}

function without(...names: string[]): Record<string, readonly string[]> {
  return Object.fromEntries(Object.entries(goodModules).filter(([name]) => !names.includes(name)));
}

test("planModules() lists each module under its condition after what it needs, boot modules once", async (t) => {
  assert.deepEqual(lines(await plan(t)), [
    "boot virtio_ring",
    "boot virtio",
    "boot virtio_pci",
    "boot vsock",
    "boot vmw_vsock_virtio_transport",
    "virtio:26 fuse",
    "virtio:26 virtiofs",
    "virtio:1 virtio_net",
    "virtio:2 virtio_blk",
    "virtio:3 virtio_console",
    "virtio:4 virtio_rng",
    "virtio:5 virtio_balloon",
    "virtio:24 virtio_mem",
    "demand:overlay overlay",
  ]);
});

test("planModules() repeats a shared dependency under each condition", async (t) => {
  const modules = {
    ...goodModules,
    shared: [],
    virtio_net: ["depends=shared"],
    virtio_blk: ["depends=shared"],
  };
  const found = lines(await plan(t, { modules })).filter((line) => / shared$/.test(line));
  assert.deepEqual(found, ["virtio:1 shared", "virtio:2 shared"]);
});

test("planModules() reports what is built in and which optional features are missing", async (t) => {
  const modules = { ...without("virtio_balloon", "virtio_mem") };
  const result = await plan(t, { modules });
  assert.deepEqual(
    result.missing.map((wanted) => wanted.name),
    ["virtio_balloon", "virtio_mem"],
  );
  assert.deepEqual(result.builtin, []);
});

for (const [name, feature] of [
  ["virtio_pci", /lacks virtio-pci .*CONFIG_VIRTIO_PCI/],
  [
    "vmw_vsock_virtio_transport",
    /lacks vsock .*module vmw_vsock_virtio_transport \(CONFIG_VIRTIO_VSOCKETS\)/,
  ],
  ["virtiofs", /lacks virtio-fs .*CONFIG_VIRTIO_FS/],
  ["overlay", /lacks overlayfs .*CONFIG_OVERLAY_FS/],
  ["fuse", /lacks fuse .*CONFIG_FUSE_FS/],
] as const) {
  test(`planModules() refuses a kernel without ${name} by the feature's name`, async (t) => {
    await assert.rejects(plan(t, { modules: without(name) }), { code: "ERR_UNSUPPORTED", message: feature });
  });
}

test("planModules() names everything that a kernel lacks at once", async (t) => {
  const config = goodConfig.replace("CONFIG_DEVTMPFS=y\n", "# CONFIG_DEVTMPFS is not set\n");
  const failed = plan(t, { modules: without("fuse", "virtiofs"), config });
  await assert.rejects(
    failed,
    /lacks fuse .*; virtio-fs .*; CONFIG_DEVTMPFS, for the guest's \/dev\. Choose another/,
  );
});

test("planModules() loads an extra virtio driver with its device and another module on demand", async (t) => {
  const modules = {
    ...goodModules,
    virtio_scsi: ["depends=virtio,scsi_mod", "alias=virtio:d00000008v*"],
    scsi_mod: [],
    xfs: ["alias=fs-xfs"],
  };
  const extra = ["virtio-scsi", "xfs", "boot=xfs", "virtio:26=xfs", "demand:disk=xfs"];
  const all = lines(await plan(t, { modules, extra }));
  assert.deepEqual(all.slice(14), [
    "virtio:8 scsi_mod",
    "virtio:8 virtio_scsi",
    "demand:xfs xfs",
    "boot xfs",
  ]);
});

test("planModules() refuses an extra module that does not exist or a condition that means nothing", async (t) => {
  await assert.rejects(plan(t, { extra: ["nope"] }), {
    code: "ERR_NOT_FOUND",
    message: /has no module nope/,
  });
  await assert.rejects(
    plan(t, { extra: ["never=overlay"] }),
    /"never" is no load condition; use boot, virtio:ID/,
  );
});
