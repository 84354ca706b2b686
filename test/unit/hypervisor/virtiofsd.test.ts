import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { detectFlavour, virtiofsdArgs } from "../../../src/hypervisor/virtiofsd.ts";

const init = { sharedDir: "/run/caisson/1/shared", cache: "auto", extraArgs: ["--x"] } as const;

test("virtiofsdArgs() speaks the C daemon's language", () => {
  assert.deepEqual(virtiofsdArgs(init, "c"), [
    "--fd=3",
    "-f",
    ...["-o", "source=/run/caisson/1/shared", "-o", "cache=auto", "-o", "sandbox=namespace", "-o", "xattr"],
    ...["-o", "announce_submounts", "-o", "log_level=warn"],
    "--x",
  ]);
  assert.ok(virtiofsdArgs({ ...init, cache: "never" }, "c").includes("cache=none"));
});

test("virtiofsdArgs() speaks the Rust daemon's language", () => {
  const args = virtiofsdArgs({ ...init, threadPoolSize: 4 }, "rust").join(" ");
  assert.equal(
    args,
    "--fd=3 --shared-dir /run/caisson/1/shared --cache auto --sandbox namespace --seccomp kill --xattr " +
      "--announce-submounts --inode-file-handles=prefer --log-level warn --thread-pool-size=4 --x",
  );
});

test("virtiofsdArgs() refuses a cache mode that the C daemon lacks", () => {
  assert.throws(
    () => virtiofsdArgs({ ...init, cache: "metadata" }, "c"),
    (error) =>
      error instanceof SandboxError && error.code === "ERR_CONFIG" && /"metadata"/.test(error.message),
  );
});

test("detectFlavour() goes by QEMU's library directory, else by the program's own text", (t) => {
  const root = mkdtempSync(join(tmpdir(), "caisson-virtiofsd-"));
  t.after(() => rmSync(root, { recursive: true }));
  mkdirSync(join(root, "lib/qemu"), { recursive: true });
  const program = (name: string, text: string) => {
    writeFileSync(join(root, name), `\x7fELF${"\0".repeat(5000)}${text}\0`);
    return join(root, name);
  };
  const inQemu = program("lib/qemu/virtiofsd", "");
  symlinkSync(inQemu, join(root, "virtiofsd"));
  assert.equal(detectFlavour(join(root, "virtiofsd")), "c");
  assert.equal(detectFlavour(program("a", "…no_posix_lock…")), "c");
  assert.equal(detectFlavour(program("b", "…inode-file-handles…")), "rust");
  assert.throws(() => detectFlavour(program("c", "#!/bin/sh")), /virtio_fs_daemon_flavour/);
  assert.throws(() => detectFlavour(join(root, "none")), /none cannot be read/);
});
