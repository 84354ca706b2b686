/** The form of the root switch that an initramfs needs; the other tests use pivot_root. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { CHROOT_ESCAPE } from "./chroot-escape.ts";
import { useWorld } from "./world.ts";

const world = useWorld({ moveRoot: true });

test("a container runs, and an exec finds the same root", async () => {
  assert.deepEqual(await world().sh("ls /; exit 3"), {
    stdout: "bin\ndev\netc\nhome\nproc\nroot\nrun\nsys\ntmp\n",
    stderr: "",
    status: 3,
  });
  const id = await world().sleeper();
  const { stdout } = await world().execSh(id, "ls /; ls /proc/self/root/ | wc -l");
  assert.equal(stdout, "bin\ndev\netc\nhome\nproc\nroot\nrun\nsys\ntmp\n9\n");
  await world().delete(id);
});

test("none of the agent's mounts is left in the container's namespace", async () => {
  const { stdout } = await world().run(["cut", "-d ", "-f5", "/proc/self/mountinfo"]);
  const points = stdout.trim().split("\n");
  const own = /^\/$|^\/(proc|dev|sys|run)(\/.*)?$/;
  assert.deepEqual(
    points.filter((path) => !own.test(path)),
    [],
  );
  assert.equal(points.filter((path) => path === "/proc").length, 1);
  assert.equal(points.filter((path) => path === "/").length, 1);
});

test("neither chroot nor taking / away leads to the agent's mounts", async () => {
  const id = world().newId();
  const root = world().makeRootfs(id);
  execFileSync("gcc", ["-static", "-O1", "-w", "-x", "c", "-o", join(root, "bin/escape"), "-"], {
    input: CHROOT_ESCAPE,
  });
  writeFileSync(join(root, "etc/mark-of-the-image"), "");
  assert.equal((await world().run(["/bin/escape"], undefined, id)).stdout, "in in\n");
});

test("volumes and read-only roots work as with pivot_root", async () => {
  const source = join(world().dir, "volume");
  mkdirSync(source);
  writeFileSync(join(source, "f"), "content\n");
  const { stdout, stderr } = await world().sh("cat /data/f; touch /x", (spec) => {
    spec.root.readonly = true;
    spec.mounts.push({ destination: "/run/deep/data", type: "bind", source, options: ["bind"] });
    spec.mounts.push({ destination: "/data", type: "bind", source, options: ["bind", "ro"] });
  });
  assert.equal(stdout, "content\n");
  assert.match(stderr, /Read-only file system/);
});
