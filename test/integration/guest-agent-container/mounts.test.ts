import assert from "node:assert/strict";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { SpecEdit } from "./container-world.ts";
import { useWorld } from "./world.ts";

const world = useWorld();

const withMount =
  (...mounts: { destination: string; type: string; source: string; options?: string[] }[]): SpecEdit =>
  (spec) =>
    void spec.mounts.push(...mounts);

/** A directory of this test with one file in it. */
function makeSource(name: string): string {
  const path = join(world().dir, name);
  mkdirSync(join(path, "sub"), { recursive: true });
  writeFileSync(join(path, "file"), "content\n");
  return path;
}

test("directories and files are bound where the image has nothing", async () => {
  const source = makeSource("bind");
  const { stdout } = await world().sh(
    "cat /a/b/c/file /d/e; echo new > /a/b/c/made; ls /a/b/c",
    withMount(
      { destination: "/a/b/c", type: "bind", source, options: ["rbind", "rw"] },
      { destination: "/d/e", type: "bind", source: join(source, "file"), options: ["bind", "ro"] },
    ),
  );
  assert.equal(stdout, "content\ncontent\nfile\nmade\nsub\n");
  assert.equal(readFileSync(join(source, "made"), "utf8"), "new\n");
});

test("a read-only bind cannot be written, nor made writable by the container", async () => {
  const source = makeSource("readonly");
  const { stdout, stderr } = await world().sh(
    "touch /data/x; mount -o remount,rw,bind /data; touch /data/y; grep ' /data ' /proc/self/mountinfo | cut -d' ' -f6",
    withMount({
      destination: "/data",
      type: "bind",
      source,
      options: ["bind", "ro", "nosuid", "nodev", "noexec"],
    }),
  );
  assert.equal(stdout, "ro,nosuid,nodev,noexec,relatime\n");
  assert.equal(stderr.match(/Read-only file system/g)?.length, 2, stderr);
});

test("rro makes what is mounted below read-only too, ro does not", async () => {
  // Mounts of the agent itself: /dev has some below it.
  const { stdout } = await world().sh(
    "for d in all top; do grep \" /$d/shm \" /proc/self/mountinfo | cut -d' ' -f6 | cut -c1-2 | sort -u; done",
    withMount(
      { destination: "/all", type: "bind", source: "/dev", options: ["rbind", "rro"] },
      { destination: "/top", type: "bind", source: "/dev", options: ["rbind", "ro"] },
    ),
  );
  assert.equal(stdout, "ro\nrw\n");
});

test("options reach the file system and the mount", async () => {
  const { stdout } = await world().sh(
    "grep ' /t ' /proc/self/mountinfo | sed 's/.* \\/t //'; stat -c %a:%u:%g /t",
    withMount({
      destination: "/t",
      type: "tmpfs",
      source: "scratch",
      options: [
        "nosuid",
        "nodev",
        "noexec",
        "noatime",
        "nodiratime",
        "size=1m",
        "mode=1750",
        "uid=7",
        "gid=8",
      ],
    }),
  );
  assert.match(
    stdout,
    /^rw,nosuid,nodev,noexec,noatime,nodiratime - tmpfs scratch rw,size=1024k,mode=1750,uid=7,gid=8.*\n1750:7:8\n$/,
  );
});

test("propagation is that of the options", async () => {
  const { stdout } = await world().sh(
    "grep -E ' /(s|p|u) ' /proc/self/mountinfo | cut -d' ' -f5,7",
    withMount(
      { destination: "/s", type: "tmpfs", source: "s", options: ["rshared"] },
      { destination: "/p", type: "tmpfs", source: "p", options: ["rprivate"] },
      { destination: "/u", type: "tmpfs", source: "u", options: ["unbindable"] },
    ),
  );
  assert.match(stdout, /^\/s shared:\d+\n\/p -\n\/u unbindable\n$/);
});

test("the propagation of the root is that of the spec", async () => {
  const propagation = async (rootfsPropagation?: string) =>
    (
      await world().sh(
        "grep ' / / ' /proc/self/mountinfo; grep -E '^[0-9]+ [0-9]+ [^ ]+ [^ ]+ / ' /proc/self/mountinfo",
        (spec) => {
          Object.assign(spec.linux, { rootfsPropagation });
        },
      )
    ).stdout;
  assert.match(await propagation("rshared"), / shared:\d+ /);
  assert.doesNotMatch(await propagation(), /shared:|master:/);
});

test("tmpcopyup starts a tmpfs with the image's files", async () => {
  const id = world().newId();
  const root = world().makeRootfs(id);
  mkdirSync(join(root, "data/deep"), { recursive: true, mode: 0o700 });
  writeFileSync(join(root, "data/deep/file"), "kept\n", { mode: 0o640 });
  symlinkSync("deep/file", join(root, "data/link"));
  const { stdout } = await world().sh(
    "cat /data/link; stat -c %a /data/deep /data/deep/file; echo x > /data/deep/file; stat -f -c %T /data",
    withMount({ destination: "/data", type: "tmpfs", source: "tmpfs", options: ["tmpcopyup"] }),
    id,
  );
  assert.equal(stdout, "kept\n700\n640\ntmpfs\n");
  assert.equal(readFileSync(join(root, "data/deep/file"), "utf8"), "kept\n", "the image is unchanged");
});

test("a failed mount names source, type, destination and the file system's own words", async () => {
  await assert.rejects(
    world().run(
      ["true"],
      withMount({ destination: "/t", type: "tmpfs", source: "tmpfs", options: ["size=huge"] }),
    ),
    /cannot mount "tmpfs" \(tmpfs\) at "\/t": .*Bad value for 'size'/,
  );
  await assert.rejects(
    world().run(
      ["true"],
      withMount({ destination: "/t", type: "bind", source: "/no/such", options: ["bind"] }),
    ),
    /cannot mount "\/no\/such" \(bind\) at "\/t": .*No such file or directory/,
  );
  await assert.rejects(
    world().run(["true"], withMount({ destination: "/t", type: "nonesuchfs", source: "x" })),
    /nonesuchfs.*No such device/,
  );
});

test("the container's cgroup is the root of what it sees", async () => {
  const { stdout } = await world().sh(
    "cat /proc/self/cgroup | grep ^0:; cat /sys/fs/cgroup/cgroup.procs | head -1; mkdir /sys/fs/cgroup/x || echo ro",
  );
  assert.equal(stdout, "0::/\n1\nro\n");
});

test("devices are made, with type, numbers, mode and owner of the spec", async () => {
  const { stdout } = await world().sh(
    "stat -c '%n %F %t:%T %a %u:%g' /dev/null /dev/mine /dev/deep/disk /dev/pipe; ls -l /dev/fd /dev/ptmx | sed 's/.*\\/dev/\\/dev/'; echo x > /dev/full || true",
    (spec) => {
      spec.linux.devices = [
        { path: "/dev/mine", type: "c", major: 1, minor: 5, fileMode: 0o640, uid: 3, gid: 4 },
        { path: "/dev/deep/disk", type: "b", major: 7, minor: 9 },
        { path: "/dev/pipe", type: "p" },
      ];
    },
  );
  assert.equal(
    stdout,
    [
      "/dev/null character special file 1:3 666 0:0",
      "/dev/mine character special file 1:5 640 3:4",
      "/dev/deep/disk block special file 7:9 666 0:0",
      "/dev/pipe fifo 0:0 666 0:0",
      "/dev/fd -> /proc/self/fd",
      "/dev/ptmx -> pts/ptmx",
      "",
    ].join("\n"),
  );
});

test("a device of an unknown type is refused by name", async () => {
  await assert.rejects(
    world().run(["true"], (spec) => {
      spec.linux.devices = [{ path: "/dev/odd", type: "z" }];
    }),
    /linux\.devices: \/dev\/odd has the unknown type "z"/,
  );
});

test("device rules are enforced: what is not allowed cannot be opened", async () => {
  const { stdout, stderr } = await world().sh(
    "head -c1 /dev/zero | wc -c; head -c1 /dev/kmsg; echo > /dev/null && echo null",
    (spec) => {
      spec.linux.devices = [{ path: "/dev/kmsg", type: "c", major: 1, minor: 11 }];
      spec.linux.resources = { devices: [{ allow: false, access: "rwm" }] };
    },
  );
  assert.equal(stdout, "1\nnull\n");
  assert.match(stderr, /\/dev\/kmsg: Operation not permitted/);
});

test("sysctls are set in the container's namespaces", async () => {
  const own = readFileSync("/proc/sys/kernel/msgmax", "utf8");
  const { stdout } = await world().sh("cat /proc/sys/kernel/msgmax /proc/sys/fs/mqueue/msg_max", (spec) => {
    spec.linux.sysctl = { "kernel.msgmax": "9999", "fs.mqueue.msg_max": "33" };
  });
  assert.equal(stdout, "9999\n33\n");
  assert.equal(readFileSync("/proc/sys/kernel/msgmax", "utf8"), own);
  await assert.rejects(
    world().run(["true"], (spec) => {
      spec.linux.sysctl = { "kernel.nonesuch": "1" };
    }),
    /linux\.sysctl: cannot set kernel\.nonesuch/,
  );
});

test("host name and domain name of the spec are set, and shared by the pod", async () => {
  const { stdout } = await world().sh("hostname; cat /proc/sys/kernel/domainname", (spec) => {
    spec.hostname = "given";
    spec.domainname = "example.org";
  });
  assert.equal(stdout, "given\nexample.org\n");
  assert.equal((await world().sh("hostname")).stdout, "given\n");
});
