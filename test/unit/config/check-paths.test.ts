import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { type Config, checkPaths, checkVsockDaemon, loadConfig } from "../../../src/config/index.ts";

let root: string;
const at = (name: string) => join(root, name);

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "caisson-paths-"));
  for (const name of ["qemu", "virtiofsd", "vsockd"]) {
    writeFileSync(at(name), "#!/bin/sh\n");
    chmodSync(at(name), 0o755);
  }
  writeFileSync(
    at("vmlinux"),
    Buffer.concat([Buffer.from("\x7fELF\x02\x01\x01", "latin1"), Buffer.alloc(2000)]),
  );
  const bzImage = Buffer.alloc(2048);
  bzImage.write("HdrS", 0x202, "latin1");
  writeFileSync(at("bzImage"), bzImage);
  writeFileSync(at("initrd"), "cpio");
});
afterEach(() => rmSync(root, { recursive: true }));

async function config(changes: Record<string, string> = {}): Promise<Config> {
  const keys = {
    path: at("qemu"),
    virtio_fs_daemon: at("virtiofsd"),
    kernel: at("vmlinux"),
    initrd: at("initrd"),
    vhost_user_vsock_daemon: at("vsockd"),
    ...changes,
  };
  const lines = Object.entries(keys).map(([name, value]) => `${name} = ${JSON.stringify(value)}`);
  writeFileSync(at("c.toml"), `[hypervisor.qemu]\n${lines.join("\n")}\n`);
  return loadConfig({ path: at("c.toml"), env: {} });
}

async function refusal(changes: Record<string, string>): Promise<string> {
  const loaded = await config(changes);
  try {
    checkPaths(loaded);
  } catch (error) {
    assert.ok(error instanceof SandboxError && error.code === "ERR_CONFIG");
    return error.message;
  }
  throw new Error("nothing was refused");
}

test("checkPaths() gives programs and images and tells the kernel's format", async () => {
  assert.deepEqual(checkPaths(await config()), {
    qemu: at("qemu"),
    virtiofsd: at("virtiofsd"),
    kernel: { path: at("vmlinux"), format: "vmlinux" },
    initrd: at("initrd"),
    firmware: undefined,
  });
  symlinkSync(at("bzImage"), at("link"));
  assert.deepEqual(checkPaths(await config({ kernel: at("link") })).kernel, {
    path: at("link"),
    format: "bzImage",
  });
  assert.equal(checkPaths(await config({ firmware: at("initrd") })).firmware, at("initrd"));
  assert.equal(checkPaths(await config({ firmware: "seabios" })).firmware, undefined);
});

test("checkPaths() names what is missing, its key and the remedy", async () => {
  const gone = at("gone");
  const osbuilder = "run `osbuilder generate`";
  assert.equal(
    await refusal({ kernel: gone }),
    `kernel ${gone} not found: ${osbuilder} (hypervisor.qemu.kernel)`,
  );
  assert.equal(
    await refusal({ initrd: gone }),
    `initrd ${gone} not found: ${osbuilder} (hypervisor.qemu.initrd)`,
  );
  assert.match(await refusal({ path: gone }), /^QEMU .*gone not found: install the package qemu-system-x86 /);
  assert.match(
    await refusal({ virtio_fs_daemon: gone }),
    /virtio_fs_daemon .*gone not found: install .* virtiofsd/,
  );
  assert.match(await refusal({ firmware: gone }), /firmware .*gone not found/);
  assert.throws(
    () => checkVsockDaemon({ hypervisor: { vhostUserVsockDaemon: gone } } as Config),
    /vhost_user_vsock_daemon .*gone not found: install the package vhost-device-vsock/,
  );
});

test("checkPaths() tells a directory, a program without x, a dangling link and a wrong kernel apart", async () => {
  mkdirSync(at("dir"));
  assert.match(await refusal({ initrd: at("dir") }), /is not a file/);
  writeFileSync(at("plain"), "");
  assert.match(await refusal({ path: at("plain") }), /is not accessible/);
  symlinkSync(at("nowhere"), at("dangling"));
  assert.match(await refusal({ kernel: at("dangling") }), /dangling not found/);
  assert.match(await refusal({ kernel: at("initrd") }), /neither a vmlinux \(ELF\) nor a bzImage/);
  assert.match(
    await refusal({ kernel: at("bzImage"), kernel_format: "vmlinux" }),
    /is a bzImage and not a vmlinux/,
  );
});

test("checkVsockDaemon() takes the configured program, else looks in the caller's places first", async () => {
  assert.equal(checkVsockDaemon(await config()), at("vsockd"));
  assert.equal(checkVsockDaemon(await config({ vhost_user_vsock_daemon: "" }), [at("vsockd")]), at("vsockd"));
});
