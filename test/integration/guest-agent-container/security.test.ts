import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { CHROOT_ESCAPE } from "./chroot-escape.ts";
import { useWorld } from "./world.ts";

const world = useWorld();

const capabilityLines = (status: string): Record<string, string> =>
  Object.fromEntries([...status.matchAll(/^Cap(\w+):\s+(\w+)$/gm)].map(([, name, mask]) => [name, mask]));

test("all five capability sets are those of the spec", async () => {
  const { stdout } = await world().run(["cat", "/proc/self/status"], (spec) => {
    const three = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    spec.process.capabilities = {
      bounding: [...three, "CAP_NET_RAW"],
      effective: ["CAP_KILL", "CAP_NET_BIND_SERVICE"],
      permitted: three,
      inheritable: ["CAP_NET_BIND_SERVICE"],
      ambient: ["CAP_NET_BIND_SERVICE"],
    };
    spec.process.user = { uid: 1000, gid: 1000 };
  });
  // linux/capability.h: CHOWN 0, KILL 5, NET_BIND_SERVICE 10, NET_RAW 13. A user's execve keeps the ambient ones.
  assert.deepEqual(capabilityLines(stdout), {
    Inh: "0000000000000400",
    Prm: "0000000000000400",
    Eff: "0000000000000400",
    Bnd: "0000000000002421",
    Amb: "0000000000000400",
  });
});

test("root has the spec's capabilities, a user without ambient ones has none", async () => {
  const root = capabilityLines((await world().run(["cat", "/proc/self/status"])).stdout);
  assert.equal(root.Eff, "00000000a80425fb");
  assert.equal(root.Bnd, "00000000a80425fb");
  const user = await world().run(["cat", "/proc/self/status"], (spec) => {
    spec.process.user = { uid: 1000, gid: 1000 };
  });
  assert.equal(capabilityLines(user.stdout).Eff, "0000000000000000");
});

test("a spec without capabilities gives none, to root either", async () => {
  const { stdout } = await world().run(["cat", "/proc/self/status"], (spec) => {
    spec.process.capabilities = undefined;
  });
  for (const [name, mask] of Object.entries(capabilityLines(stdout)))
    assert.equal(mask, "0000000000000000", name);
});

test("no_new_privs is set as the spec says", async () => {
  const line = async (noNewPrivileges: boolean) =>
    (
      await world().run(["grep", "NoNewPrivs", "/proc/self/status"], (spec) => {
        spec.process.noNewPrivileges = noNewPrivileges;
      })
    ).stdout;
  assert.equal(await line(true), "NoNewPrivs:\t1\n");
  assert.equal(await line(false), "NoNewPrivs:\t0\n");
});

const denyMkdir = {
  defaultAction: "SCMP_ACT_ALLOW",
  architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
  syscalls: [{ names: ["mkdir", "mkdirat", "not_a_call"], action: "SCMP_ACT_ERRNO", errnoRet: 13 }],
};

for (const noNewPrivileges of [true, false]) {
  for (const uid of [0, 1000]) {
    test(`seccomp denies what it names, uid ${uid}, no_new_privs ${noNewPrivileges}`, async () => {
      const result = await world().sh("grep Seccomp: /proc/self/status; mkdir /tmp/x", (spec) => {
        spec.process.noNewPrivileges = noNewPrivileges;
        spec.process.user = { uid, gid: uid };
        spec.linux.seccomp = denyMkdir;
      });
      assert.equal(result.stdout, "Seccomp:\t2\n");
      assert.match(result.stderr, /mkdir: can't create directory '\/tmp\/x': Permission denied/);
      assert.equal(result.status, 1);
    });
  }
}

test("seccomp can end a process", async () => {
  const result = await world().sh("mkdir /tmp/x", (spec) => {
    spec.linux.seccomp = {
      defaultAction: "SCMP_ACT_ALLOW",
      syscalls: [{ names: ["mkdir", "mkdirat"], action: "SCMP_ACT_KILL_PROCESS" }],
    };
  });
  // SIGSYS is 31.
  assert.equal(result.status, 128 + 31);
});

test("seccomp compares arguments", async () => {
  const result = await world().sh("kill -0 $$ && echo zero; kill -10 $$ || echo refused", (spec) => {
    spec.linux.seccomp = {
      defaultAction: "SCMP_ACT_ALLOW",
      syscalls: [
        {
          names: ["kill"],
          action: "SCMP_ACT_ERRNO",
          args: [{ index: 1, value: 10, op: "SCMP_CMP_EQ" }],
        },
      ],
    };
  });
  assert.equal(result.stdout, "zero\nrefused\n");
});

test("seccomp applies to an exec too", async () => {
  const id = await world().sleeper((spec) => {
    spec.linux.seccomp = denyMkdir;
  });
  const result = await world().execSh(id, "mkdir /tmp/x");
  assert.match(result.stderr, /Permission denied/);
  await world().delete(id);
});

test("a profile that refuses by default answers calls newer than its own with ENOSYS", async () => {
  const source = `
    #include <errno.h>
    #include <stdio.h>
    #include <unistd.h>
    #include <sys/syscall.h>
    int main(void) {
      errno = 0; syscall(1000); int newer = errno;
      errno = 0; syscall(SYS_getppid); int refused = errno;
      printf("%d %d\\n", newer, refused);
      return 0;
    }`;
  const id = world().newId();
  compileInto(world().makeRootfs(id), "calls", source);
  // What a static program of the C library needs to start and print.
  const allowed =
    "execve brk arch_prctl set_tid_address set_robust_list rseq prlimit64 readlinkat getrandom mprotect newfstatat fstat write exit_group close sendmsg readlink uname mmap munmap rt_sigaction rt_sigprocmask ioctl openat2";
  const { stdout } = await world().run(
    ["/bin/calls"],
    (spec) => {
      spec.linux.seccomp = {
        defaultAction: "SCMP_ACT_ERRNO",
        architectures: ["SCMP_ARCH_X86_64"],
        syscalls: [{ names: allowed.split(" "), action: "SCMP_ACT_ALLOW" }],
      };
    },
    id,
  );
  // ENOSYS 38, EPERM 1.
  assert.equal(stdout, "38 1\n");
});

test("an unknown seccomp action and user notification are refused by name", async () => {
  const withSeccomp = (seccomp: object) =>
    world().run(["true"], (spec) => Object.assign(spec.linux, { seccomp }));
  await assert.rejects(withSeccomp({ defaultAction: "SCMP_ACT_MAYBE" }), /SCMP_ACT_MAYBE/);
  await assert.rejects(
    withSeccomp({
      defaultAction: "SCMP_ACT_ALLOW",
      syscalls: [{ names: ["mkdir"], action: "SCMP_ACT_NOTIFY" }],
    }),
    /SCMP_ACT_NOTIFY.*not supported/,
  );
});

test("masked paths show nothing and read-only paths cannot be written", async () => {
  const id = world().newId();
  const root = world().makeRootfs(id);
  mkdirSync(join(root, "secret"));
  writeFileSync(join(root, "secret/key"), "x");
  writeFileSync(join(root, "secretfile"), "x");
  const { stdout, stderr } = await world().sh(
    "ls /secret; touch /secret/y; cat /secretfile; touch /etc/new; echo x > /proc/sys/kernel/hostname; echo done",
    (spec) => {
      spec.linux.maskedPaths = ["/secret", "/secretfile", "/absent"];
      spec.linux.readonlyPaths = ["/etc", "/proc/sys", "/absent"];
    },
    id,
  );
  assert.equal(stdout, "done\n");
  assert.equal(stderr.match(/Read-only file system/g)?.length, 3, stderr);
  assert.equal(existsSync(join(root, "etc/new")), false);
});

test("a masked path that the image turned into a symlink stays inside the root", async () => {
  const id = world().newId();
  const root = world().makeRootfs(id);
  symlinkSync("/etc/passwd", join(root, "link"));
  const before = readFileSync("/etc/passwd", "utf8");
  const { stdout } = await world().sh(
    "cat /etc/passwd; echo end",
    (spec) => {
      spec.linux.maskedPaths = ["/link"];
    },
    id,
  );
  assert.equal(stdout, "end\n", "the image's own file is masked");
  assert.equal(readFileSync("/etc/passwd", "utf8"), before);
});

test("a read-only root file system cannot be written, its mounts can", async () => {
  const { stdout, stderr } = await world().sh(
    "touch /x; touch /run/y && echo run; touch /dev/z && echo dev",
    (spec) => {
      spec.root.readonly = true;
    },
  );
  assert.equal(stdout, "run\ndev\n");
  assert.match(stderr, /touch: \/x: Read-only file system/);
});

test("mount points below symlinks of the image are made inside the root", async () => {
  const outside = join(world().dir, "outside");
  mkdirSync(outside, { recursive: true });
  const id = world().newId();
  const root = world().makeRootfs(id);
  symlinkSync(outside, join(root, "absolute"));
  symlinkSync(`../../../../../../../../../..${outside}`, join(root, "relative"));
  symlinkSync(outside, join(root, "file"));
  const source = join(world().dir, "source");
  writeFileSync(source, "content\n");
  const { stdout } = await world().sh(
    `cat /file/f ${outside}/f; ls ${outside}`,
    (spec) => {
      spec.mounts.push(
        { destination: "/absolute/a", type: "tmpfs", source: "tmpfs" },
        { destination: "/relative/b/c", type: "tmpfs", source: "tmpfs" },
        { destination: "/file/f", type: "bind", source, options: ["bind"] },
      );
    },
    id,
  );
  assert.equal(stdout, "content\ncontent\na\nb\nf\n");
  assert.deepEqual(execFileSync("ls", [outside], { encoding: "utf8" }), "", "nothing was made outside");
  rmSync(outside, { recursive: true });
});

for (const [name, type] of [
  ["proc", "proc"],
  ["sys", "sysfs"],
]) {
  test(`an image whose /${name} is a symlink is refused`, async () => {
    const id = world().newId();
    const root = world().makeRootfs(id);
    symlinkSync("/tmp", join(root, name ?? ""));
    await assert.rejects(
      world().run(["true"], undefined, id),
      new RegExp(`/${name} of the image is a symlink; ${type}`),
    );
  });
}

test("a mount over / and a bind over a part of /proc are refused", async () => {
  await assert.rejects(
    world().run(
      ["true"],
      (spec) => void spec.mounts.push({ destination: "/..", type: "tmpfs", source: "t" }),
    ),
    /a mount over \/ of the container is not possible/,
  );
  await assert.rejects(
    world().run(["true"], (spec) => {
      spec.mounts.push({ destination: "/proc/self/attr", type: "bind", source: "/tmp", options: ["bind"] });
    }),
    /\/proc\/self\/attr would cover a part of \/proc/,
  );
});

test("a container sees only its own processes and mounts", async () => {
  const { stdout } = await world().sh(
    "ls -d /proc/[0-9]*; grep -c caisson /proc/self/mountinfo; ls /proc/1/root/",
  );
  assert.match(stdout, /^\/proc\/1\n(\/proc\/\d+\n)?[1-9]\n/);
  assert.doesNotMatch(stdout, /usr|lib64/);
});

test("the agent's child cannot be inspected from a container", async () => {
  const id = await world().sleeper();
  // While an exec is being set up its process is visible in the container, but not readable.
  const watcher = world().execSh(
    id,
    'for i in $(seq 300); do for p in /proc/[0-9]*; do l=$(readlink $p/exe 2>/dev/null); case "$l" in *agent*) echo "$p $l";; esac; done; done',
  );
  for (let i = 0; i < 10; i++) await world().execSh(id, "true");
  await world().kill(id, 9);
  assert.doesNotMatch((await watcher).stdout, /agent/);
  await world().delete(id);
});

function compileInto(root: string, name: string, source: string): void {
  execFileSync("gcc", ["-static", "-O1", "-w", "-x", "c", "-o", join(root, "bin", name), "-"], {
    input: source,
  });
}

test("chroot does not lead out of the container", async () => {
  const id = world().newId();
  const root = world().makeRootfs(id);
  compileInto(root, "escape", CHROOT_ESCAPE);
  writeFileSync(join(root, "etc/mark-of-the-image"), "");
  const { stdout } = await world().run(["/bin/escape"], undefined, id);
  assert.equal(stdout, "in in\n");
});
