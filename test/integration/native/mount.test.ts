import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { errnoOf, SandboxError } from "../../../src/base/errors.ts";
import { createMounter, detachMount, mount, unmount } from "../../../src/native/index.ts";

/** A private tmpfs of our own: what a failed test leaves mounted goes away with it. */
let scratch = "";
before(async () => {
  scratch = fs.mkdtempSync(path.join(os.tmpdir(), "caisson-mount-"));
  await mount("tmpfs", scratch, "tmpfs", ["size=16m", "mode=0700"]);
  await mount("none", scratch, "none", ["private"]);
});
after(async () => {
  await detachMount(scratch);
  fs.rmdirSync(scratch);
});

function dir(name: string): string {
  const made = path.join(scratch, name);
  fs.mkdirSync(made, { recursive: true });
  return made;
}

interface MountInfo {
  readonly point: string;
  readonly options: string[];
  readonly propagation: string[];
  readonly fstype: string;
  readonly superOptions: string[];
}

/** What is mounted at `point` as the process sees it, top-most last. */
function mountsAt(point: string, pid: number | "self" = "self"): MountInfo[] {
  const lines = fs.readFileSync(`/proc/${pid}/mountinfo`, "utf8").trim().split("\n");
  return lines
    .map((line): MountInfo => {
      const [left = "", right = ""] = line.split(" - ");
      const [, , , , at = "", options = "", ...propagation] = left.split(" ");
      const [fstype = "", , superOptions = ""] = right.split(" ");
      return {
        point: at,
        options: options.split(","),
        propagation,
        fstype,
        superOptions: superOptions.split(","),
      };
    })
    .filter((info) => info.point === point);
}

function mountAt(point: string, pid: number | "self" = "self"): MountInfo {
  const found = mountsAt(point, pid).at(-1);
  assert.ok(found !== undefined, `nothing is mounted at ${point}`);
  return found;
}

const failsWith = (errno: string) => (error: unknown) => {
  assert.ok(error instanceof SandboxError, String(error));
  assert.equal(errnoOf(error.cause), errno, error.message);
  return true;
};

test("mount() gives a new file system its flags and options, and unmount() takes it away", async () => {
  const target = dir("fs");
  await mount("tmpfs", target, "tmpfs", ["size=64k", "nosuid", "nodev", "noexec", "ro", "rslave"]);
  const info = mountAt(target);
  assert.equal(info.fstype, "tmpfs");
  for (const option of ["ro", "nosuid", "nodev", "noexec"]) assert.ok(info.options.includes(option), option);
  assert.ok(info.superOptions.includes("size=64k"));
  await unmount(target);
  assert.deepEqual(mountsAt(target), []);
});

test("mount() of an overlay with more lower directories than a page of options can name", async () => {
  const root = dir(`overlay/${"long-directory-name/".repeat(4)}snapshots`);
  const layers: string[] = [];
  for (let i = 0; i < 100; i++) {
    const layer = path.join(root, `${i}`, "fs");
    fs.mkdirSync(layer, { recursive: true });
    fs.writeFileSync(path.join(layer, `from-${i}`), `${i}`);
    layers.push(layer);
  }
  for (const name of ["upper", "work", "merged"]) fs.mkdirSync(path.join(root, name));
  const lowerdir = `lowerdir=${layers.join(":")}`;
  assert.ok(lowerdir.length > 8192);
  const here = process.cwd();
  const target = path.join(root, "merged");
  await mount("overlay", target, "overlay", [
    `workdir=${path.join(root, "work")}`,
    `upperdir=${path.join(root, "upper")}`,
    lowerdir,
  ]);
  try {
    assert.equal(fs.readdirSync(target).length, 100);
    assert.equal(fs.readFileSync(path.join(target, "from-99"), "utf8"), "99");
    fs.writeFileSync(path.join(target, "new"), "x");
    assert.ok(fs.existsSync(path.join(root, "upper", "new")));
    assert.equal(process.cwd(), here);
  } finally {
    await detachMount(target);
  }
});

test("a read-only bind mount is read-only in every namespace that it propagates into", async () => {
  const tree = dir("tree");
  await mount(tree, tree, "none", ["bind"]);
  await mount("none", tree, "none", ["shared"]);
  const other = spawn("unshare", [
    "--mount",
    "--propagation",
    "slave",
    "sh",
    "-c",
    "echo ready; exec sleep 60",
  ]);
  try {
    await once(other.stdout, "data");
    const pid = other.pid;
    assert.ok(pid !== undefined);
    const source = dir("data");
    const target = dir("tree/volume");
    await mount(source, target, "none", ["rbind", "ro", "nosuid", "rslave"]);
    for (const view of ["self", pid] as const) {
      const info = mountAt(target, view);
      assert.ok(info.options.includes("ro"), `${view}: ${info.options}`);
      assert.ok(info.options.includes("nosuid"), `${view}: ${info.options}`);
    }
    await detachMount(target);
    assert.deepEqual([mountsAt(target), mountsAt(target, pid)], [[], []]);
  } finally {
    other.kill("SIGKILL");
    await once(other, "close");
    await detachMount(tree);
  }
});

test("ro protects the top of a recursive bind mount, rro all of it", async () => {
  const source = dir("recursive");
  const below = dir("recursive/below");
  await mount("tmpfs", below, "tmpfs", ["size=64k"]);
  const target = dir("recursive-target");
  for (const [option, writable] of [
    ["ro", true],
    ["rro", false],
  ] as const) {
    await mount(source, target, "none", ["rbind", option]);
    assert.throws(() => fs.writeFileSync(path.join(target, "file"), ""), { code: "EROFS" });
    const write = () => fs.writeFileSync(path.join(target, "below", "file"), "");
    if (writable) write();
    else assert.throws(write, { code: "EROFS" });
    await detachMount(target);
  }
  await mount(source, target, "none", ["bind"]);
  assert.deepEqual(fs.readdirSync(path.join(target, "below")), []);
  await detachMount(target);
  await unmount(below);
});

test("a single file can be bind-mounted", async () => {
  fs.writeFileSync(path.join(scratch, "hosts"), "127.0.0.1");
  const target = path.join(scratch, "hosts-target");
  fs.writeFileSync(target, "");
  await mount(path.join(scratch, "hosts"), target, "bind", ["ro"], { beneath: scratch });
  assert.equal(fs.readFileSync(target, "utf8"), "127.0.0.1");
  await unmount(target, { beneath: scratch });
  assert.equal(fs.readFileSync(target, "utf8"), "");
});

test("remount,bind changes what it names and keeps the mount's other attributes", async () => {
  const target = dir("keep");
  await mount("tmpfs", target, "tmpfs", ["nosuid", "nodev"]);
  await mount("none", target, "none", ["remount", "bind", "ro"]);
  const info = mountAt(target);
  for (const option of ["ro", "nosuid", "nodev"]) assert.ok(info.options.includes(option), option);
  assert.ok(info.superOptions.includes("rw"));
  await mount("none", target, "none", ["remount", "bind", "rw", "noatime"]);
  assert.ok(["rw", "nosuid", "noatime"].every((option) => mountAt(target).options.includes(option)));
  await unmount(target);
});

test("remount changes the file system's own options", async () => {
  const target = dir("resize");
  await mount("tmpfs", target, "tmpfs", ["size=64k"]);
  await mount("tmpfs", target, "tmpfs", ["remount", "size=128k"]);
  assert.ok(mountAt(target).superOptions.includes("size=128k"));
  await unmount(target);
});

test("propagation is set without touching anything else", async () => {
  const target = dir("propagation");
  await mount(target, target, "none", ["bind"]);
  await mount("none", target, "none", ["shared"]);
  assert.match(mountAt(target).propagation.join(" "), /shared:\d+/);
  await mount("none", target, "none", ["rprivate"]);
  assert.deepEqual(mountAt(target).propagation, []);
  await mount("none", target, "none", ["unbindable"]);
  assert.deepEqual(mountAt(target).propagation, ["unbindable"]);
  await unmount(target);
});

test("with `beneath`, a link that somebody put where a target is expected is never followed", async () => {
  const root = dir("guest");
  const outside = dir("outside");
  dir("outside/sub");
  fs.symlinkSync(outside, path.join(root, "swapped"));
  fs.symlinkSync("..", path.join(root, "up"));
  const mounter = createMounter({ beneath: root });
  for (const name of ["swapped", "swapped/sub", "up/outside"]) {
    const target = path.join(root, name);
    await assert.rejects(mounter.mount("tmpfs", target, "tmpfs", []), failsWith("ELOOP"), name);
    await assert.rejects(mounter.mount(outside, target, "none", ["bind"]), failsWith("ELOOP"), name);
    await assert.rejects(
      mounter.mount("none", target, "none", ["remount", "bind", "ro"]),
      failsWith("ELOOP"),
      name,
    );
  }
  await assert.rejects(mounter.mount("tmpfs", outside, "tmpfs", []), failsWith("EXDEV"));
  await assert.rejects(mounter.mount("tmpfs", `${root}/../outside`, "tmpfs", []), failsWith("EXDEV"));
  assert.deepEqual(mountsAt(outside), []);

  await mount("tmpfs", outside, "tmpfs", []);
  await mounter.detach(path.join(root, "swapped"));
  await assert.rejects(unmount(path.join(root, "swapped/sub"), { beneath: root }), failsWith("ELOOP"));
  assert.equal(mountsAt(outside).length, 1);
  await unmount(outside);
});

test("with `beneath`, everything works as without it", async () => {
  const root = dir("beneath");
  const mounter = createMounter({ beneath: root });
  await mounter.mount(root, root, "none", ["bind"]);
  await mounter.mount("none", root, "none", ["shared"]);
  const target = dir("beneath/a/b");
  await mounter.mount("tmpfs", target, "tmpfs", ["size=64k", "private"]);
  assert.equal(mountAt(target).fstype, "tmpfs");
  await mounter.mount("tmpfs", target, "tmpfs", ["remount", "ro"]);
  assert.throws(() => fs.writeFileSync(path.join(target, "x"), ""), { code: "EROFS" });
  await unmount(target, { beneath: root });
  assert.deepEqual(mountsAt(target), []);
  await mounter.detach(root);
  assert.deepEqual(mountsAt(root), []);
});

test("unmount() says EBUSY, detachMount() takes a busy mount away, and neither minds twice", async () => {
  const target = dir("busy");
  await mount("tmpfs", target, "tmpfs", []);
  const fd = fs.openSync(path.join(target, "open"), "w");
  try {
    await assert.rejects(unmount(target), failsWith("EBUSY"));
    await detachMount(target);
    assert.deepEqual(mountsAt(target), []);
  } finally {
    fs.closeSync(fd);
  }
  await detachMount(target);
  await detachMount(path.join(scratch, "never-was"));
  await assert.rejects(unmount(target), failsWith("EINVAL"));
});

test("a mount that fails names what, where and why", async () => {
  const target = dir("fails");
  await assert.rejects(mount("x", target, "nosuchfs", []), (error: unknown) => {
    assert.ok(error instanceof SandboxError);
    assert.equal(error.message, `cannot mount x (nosuchfs) at ${target}`);
    assert.equal((error.cause as Error).message, `ENODEV: No such device, mount ${target}`);
    return true;
  });
  await assert.rejects(mount("/nowhere", target, "none", ["bind"]), failsWith("ENOENT"));
});
