import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import {
  MountAttribute as A,
  MountFlag as F,
  fitOptions,
  OPTION_LIMIT_BYTES,
  parseMountOptions,
  splitOptions,
} from "../../../src/native/mount-options.ts";

const none = { set: 0, clear: 0, propagation: 0 };

test("parseMountOptions() parts flags from the file system's own options", () => {
  assert.deepEqual(parseMountOptions("tmpfs", ["nosuid", "nodev", "noexec", "size=4k", "mode=0700"]), {
    kind: "new",
    flags: F.NoSuid | F.NoDev | F.NoExec,
    data: "size=4k,mode=0700",
    recursive: false,
    top: none,
    all: none,
  });
});

test("parseMountOptions() takes containerd's overlay options as they come", () => {
  const plan = parseMountOptions("overlay", ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"]);
  assert.equal(plan.kind, "new");
  assert.equal(plan.flags, 0);
  assert.equal(plan.data, "index=off,workdir=/w,upperdir=/u,lowerdir=/a:/b");
});

test("parseMountOptions() splits options that come joined", () => {
  const plan = parseMountOptions("tmpfs", ["ro,size=1m", "nodev"]);
  assert.equal(plan.flags, F.ReadOnly | F.NoDev);
  assert.equal(plan.data, "size=1m");
});

test("a later option wins over an earlier one", () => {
  assert.equal(parseMountOptions("tmpfs", ["ro", "nosuid", "rw"]).flags, F.NoSuid);
  assert.equal(parseMountOptions("tmpfs", ["noatime", "strictatime"]).flags, F.StrictAtime);
  assert.deepEqual(parseMountOptions("none", ["bind", "ro", "rw"]).top, {
    set: 0,
    clear: A.ReadOnly,
    propagation: 0,
  });
  assert.equal(parseMountOptions("none", ["shared", "private"]).top.propagation, F.Private);
});

test("every flag of mount(8) has its MS_ value, and its opposite clears it", () => {
  const pairs: [string, string, number][] = [
    ["ro", "rw", 1],
    ["nosuid", "suid", 2],
    ["nodev", "dev", 4],
    ["noexec", "exec", 8],
    ["sync", "async", 16],
    ["mand", "nomand", 64],
    ["nosymfollow", "symfollow", 256],
    ["noatime", "atime", 1024],
    ["nodiratime", "diratime", 2048],
    ["silent", "loud", 32768],
    ["relatime", "norelatime", 0x200000],
    ["iversion", "noiversion", 0x800000],
    ["strictatime", "nostrictatime", 0x1000000],
    ["lazytime", "nolazytime", 0x2000000],
  ];
  for (const [on, off, flag] of pairs) {
    assert.equal(parseMountOptions("ext4", [on]).flags, flag, on);
    assert.equal(parseMountOptions("ext4", [on, off]).flags, 0, off);
  }
  assert.equal(parseMountOptions("ext4", ["dirsync", "defaults"]).flags, 128);
});

test("a bind mount has attributes instead of flags", () => {
  assert.deepEqual(parseMountOptions("none", ["rbind", "ro", "nosuid", "rslave"]), {
    kind: "bind",
    flags: 0,
    data: "",
    recursive: true,
    top: { set: A.ReadOnly | A.NoSuid, clear: 0, propagation: 0 },
    all: { set: 0, clear: 0, propagation: F.Slave },
  });
  const plan = parseMountOptions("bind", ["private"]);
  assert.equal(plan.kind, "bind");
  assert.equal(plan.recursive, false);
  assert.deepEqual(plan.top, { set: 0, clear: 0, propagation: F.Private });
});

test("the options with a leading r are for all mounts below", () => {
  const plan = parseMountOptions("none", ["rbind", "rro", "rnosuid", "rnodev", "rnoexec", "rnosymfollow"]);
  assert.equal(plan.all.set, A.ReadOnly | A.NoSuid | A.NoDev | A.NoExec | A.NoSymFollow);
  assert.deepEqual(plan.top, none);
  assert.equal(parseMountOptions("none", ["rbind", "rro", "rrw"]).all.clear, A.ReadOnly);
});

test("an access-time mode of a bind mount clears the whole mask first", () => {
  assert.deepEqual(parseMountOptions("none", ["bind", "noatime"]).top, {
    set: A.NoAtime,
    clear: A.AtimeMask,
    propagation: 0,
  });
  assert.deepEqual(parseMountOptions("none", ["bind", "noatime", "relatime"]).top, {
    set: 0,
    clear: A.AtimeMask,
    propagation: 0,
  });
});

test("remount changes the file system, and with bind only the mount", () => {
  assert.deepEqual(
    [parseMountOptions("tmpfs", ["remount", "ro", "size=2m"])].map(({ kind, flags, data }) => ({
      kind,
      flags,
      data,
    })),
    [{ kind: "remount", flags: F.ReadOnly, data: "size=2m" }],
  );
  const plan = parseMountOptions("none", ["remount", "bind", "ro"]);
  assert.equal(plan.kind, "change");
  assert.equal(plan.top.set, A.ReadOnly);
});

test("propagation alone changes what is mounted at the target", () => {
  for (const [option, flag] of [
    ["private", F.Private],
    ["shared", F.Shared],
    ["slave", F.Slave],
    ["unbindable", F.Unbindable],
  ] as const) {
    const plan = parseMountOptions("none", [option]);
    assert.equal(plan.kind, "change");
    assert.deepEqual([plan.top.propagation, plan.all.propagation], [flag, 0]);
    const recursive = parseMountOptions("", [`r${option}`]);
    assert.deepEqual([recursive.top.propagation, recursive.all.propagation], [0, flag]);
  }
});

test("a new file system keeps its propagation for after the mount", () => {
  const plan = parseMountOptions("tmpfs", ["rprivate", "size=1m"]);
  assert.equal(plan.kind, "new");
  assert.deepEqual([plan.data, plan.all.propagation], ["size=1m", F.Private]);
});

test("options for fstab's readers never reach the kernel", () => {
  const options = [
    "defaults",
    "nofail",
    "_netdev",
    "noauto",
    "x-systemd.automount",
    "X-mount.mkdir",
    "comment=a",
    "size=1m",
  ];
  assert.equal(parseMountOptions("tmpfs", options).data, "size=1m");
});

test("what only mount(8) or runc could do is refused by name", () => {
  for (const option of ["loop", "loop=/dev/loop0", "idmap", "tmpcopyup"]) {
    assert.throws(
      () => parseMountOptions("ext4", [option]),
      (error: unknown) =>
        error instanceof SandboxError && error.code === "ERR_UNSUPPORTED" && error.message.includes(option),
    );
  }
  assert.throws(
    () => parseMountOptions("none", ["bind", "size=1m"]),
    (error: unknown) =>
      error instanceof SandboxError && error.code === "ERR_SPEC" && error.message.includes("size=1m"),
  );
});

test("splitOptions() leaves escaped commas and quoted contexts whole", () => {
  assert.deepEqual(splitOptions('lowerdir=/a\\,b,context="s0:c1,c2",ro'), [
    "lowerdir=/a\\,b",
    'context="s0:c1,c2"',
    "ro",
  ]);
});

test("fitOptions() leaves what fits", () => {
  const data = "lowerdir=/a:/b,upperdir=/u,workdir=/w";
  assert.deepEqual(fitOptions(data), { data, directory: undefined });
});

test("fitOptions() makes many lower directories relative to the one they share", () => {
  const base = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
  const layers = Array.from({ length: 120 }, (_, i) => `${base}/${i}/fs`);
  const { data, directory } = fitOptions(`index=off,workdir=${base}/999/work,lowerdir=${layers.join(":")}`);
  assert.equal(directory, base);
  assert.ok(Buffer.byteLength(data) < OPTION_LIMIT_BYTES);
  assert.ok(data.startsWith(`index=off,workdir=${base}/999/work,lowerdir=0/fs:1/fs:2/fs:`), data);
  assert.ok(data.endsWith(":119/fs"));
});

test("fitOptions() keeps data-only layers and escapes", () => {
  const base = "/very/long/directory/name/with a \\: colon";
  const layers = Array.from({ length: 100 }, (_, i) => `${base}/${"x".repeat(10)}${i}\\:y`);
  const { data, directory } = fitOptions(`lowerdir=${layers.join(":")}::${base}/data`);
  assert.equal(directory, "/very/long/directory/name/with a : colon");
  assert.ok(data.startsWith("lowerdir=xxxxxxxxxx0\\:y:xxxxxxxxxx1\\:y:"), data);
  assert.ok(data.endsWith("99\\:y::data"), data);
});

test("fitOptions() counts bytes, not characters, and says when options cannot fit", () => {
  assert.throws(() => fitOptions(`size=${"€".repeat(1400)}`), /4205 bytes; the kernel takes 4095/);
  const layers = Array.from({ length: 50 }, (_, i) => `/${i}${"x".repeat(100)}/fs`);
  assert.throws(
    () => fitOptions(`lowerdir=${layers.join(":")}`),
    (error: unknown) => error instanceof SandboxError && error.code === "ERR_SPEC",
  );
});
