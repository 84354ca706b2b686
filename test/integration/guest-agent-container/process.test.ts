import assert from "node:assert/strict";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { StreamKind } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { useWorld } from "./world.ts";

const world = useWorld();

test("a process writes to both streams and its exit code comes back", async () => {
  const result = await world().sh("echo out; echo err >&2; exit 7");
  assert.deepEqual(result, { stdout: "out\n", stderr: "err\n", status: 7 });
});

test("a process that a signal ends has status 128 plus its number", async () => {
  // In a subshell: the first process of a pid namespace ignores its own signals.
  assert.equal((await world().sh("exec sh -c 'sh -c \"kill -9 \\$\\$\"; exit $?'")).status, 137);
  const id = await world().create(["sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done"]);
  await world().start(id);
  await world().kill(id, 9);
  assert.equal(await world().exit(id), 137);
  await world().delete(id);
});

test("a process handles a signal that it is sent", async () => {
  const id = await world().create(["sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done"]);
  await world().start(id);
  const stream = await world().open(id, "", StreamKind.STDOUT);
  for await (const chunk of stream.readable) {
    if (Buffer.from(chunk).toString().includes("up")) break;
  }
  await world().kill(id, 15);
  assert.equal(await world().exit(id), 9);
  await world().delete(id);
});

test("a process starts with default signal dispositions and nothing blocked", async () => {
  const { stdout } = await world().run(["grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"]);
  assert.equal(stdout, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
});

test("a process inherits no descriptors but stdio", async () => {
  const { stdout } = await world().run(["ls", "/proc/self/fd"]);
  // 3 is ls's own, of the directory.
  assert.equal(stdout, "0\n1\n2\n3\n");
});

test("streams that nobody asked for are the container's /dev/null", async () => {
  const { stdout } = await world().sh("readlink /proc/self/fd/0; stat -c %t:%T -L /proc/self/fd/0");
  assert.equal(stdout, "/dev/null\n1:3\n");
});

test("stdin reaches the process and its end is seen", async () => {
  const id = await world().create(["sh", "-c", "cat; echo end"], undefined, { stdin: true });
  await world().start(id);
  const stdin = await world().open(id, "", StreamKind.STDIN);
  await stdin.send(Buffer.from("hello\n"));
  await stdin.sendEof();
  assert.deepEqual(await world().finish(id), { stdout: "hello\nend\n", stderr: "", status: 0 });
  await world().delete(id);
});

test("a container that waits to be started does not hold the stdin of another one open", async () => {
  const id = await world().create(["cat"], undefined, { stdin: true });
  const waiting = await world().create(["true"]);
  await world().start(id);
  const stdin = await world().open(id, "", StreamKind.STDIN);
  await stdin.sendEof();
  assert.equal((await world().finish(id)).status, 0);
  await world().delete(id);
  await world().delete(waiting);
});

test("environment, arguments and working directory are those of the spec", async () => {
  const { stdout } = await world().sh('pwd; echo "$A|$B"; env | sort', (spec) => {
    spec.process.cwd = "/var/made/here";
    spec.process.env = ["PATH=/bin", "A=1 2", "B=ü"];
  });
  assert.equal(
    stdout,
    "/var/made/here\n1 2|ü\nA=1 2\nB=ü\nHOME=/root\nPATH=/bin\nPWD=/var/made/here\nSHLVL=1\n",
  );
});

test("HOME comes from the container's passwd unless it is set", async () => {
  const home = async (env: string[], uid: number) =>
    (
      await world().sh("echo $HOME", (spec) => {
        spec.process.env = ["PATH=/bin", ...env];
        spec.process.user = { uid, gid: uid };
      })
    ).stdout;
  assert.equal(await home([], 1000), "/home/app\n");
  assert.equal(await home(["HOME=/x"], 1000), "/x\n");
  assert.equal(await home([], 4242), "/\n");
});

test("user, groups and umask are those of the spec", async () => {
  const { stdout } = await world().sh(
    "id -u; id -g; id -G; umask; touch /tmp/f && stat -c %a:%u:%g /tmp/f",
    (spec) => {
      spec.process.user = { uid: 1000, gid: 1001, additionalGids: [5, 4242], umask: 0o027 };
      spec.mounts.push({ destination: "/tmp", type: "tmpfs", source: "tmpfs", options: ["mode=1777"] });
    },
  );
  assert.equal(stdout, "1000\n1001\n1001 5 4242\n0027\n640:1000:1001\n");
});

test("the umask is 0022 where the spec has none", async () => {
  assert.equal((await world().sh("umask")).stdout, "0022\n");
});

test("a process without privileges can open its own stdout again", async () => {
  const { stdout, status } = await world().sh("echo again > /dev/stdout", (spec) => {
    spec.process.user = { uid: 1000, gid: 1000 };
  });
  assert.deepEqual([stdout, status], ["again\n", 0]);
});

test("resource limits are those of the spec", async () => {
  const { stdout } = await world().sh("ulimit -n; ulimit -Hn; ulimit -c; ulimit -s", (spec) => {
    spec.process.rlimits = [
      { type: "RLIMIT_NOFILE", soft: 77, hard: 99 },
      { type: "RLIMIT_CORE", soft: 0, hard: 0 },
      { type: "RLIMIT_STACK", soft: 4_194_304, hard: 8_388_608 },
    ];
  });
  assert.equal(stdout, "77\n99\n0\n4096\n");
});

test("an unknown resource limit is refused by name", async () => {
  await assert.rejects(
    world().run(["true"], (spec) => {
      spec.process.rlimits = [{ type: "RLIMIT_COFFEE", soft: 1, hard: 1 }];
    }),
    /RLIMIT_COFFEE/,
  );
});

test("oom_score_adj, scheduling and IO priority are those of the spec", async () => {
  const { stdout } = await world().sh(
    "cat /proc/self/oom_score_adj; cut -d' ' -f19,41 /proc/self/stat; ionice -p $$",
    (spec) => {
      spec.process.oomScoreAdj = 555;
      spec.process.scheduler = { policy: "SCHED_BATCH", nice: 5 };
      spec.process.ioPriority = { class: "IOPRIO_CLASS_IDLE", priority: 0 };
    },
  );
  // Fields 19 and 41 of stat(5): nice value and policy (SCHED_BATCH is 3).
  assert.equal(stdout, "555\n5 3\nidle\n");
});

test("a process leads a session of its own", async () => {
  // Fields 6 of stat(5): session; the first process is number 1 of its namespace.
  assert.equal((await world().run(["sh", "-c", "cut -d' ' -f6 /proc/self/stat"])).stdout, "1\n");
});

test("the working directory may be one that only root can enter, as with runc", async () => {
  const id = world().newId();
  mkdirSync(join(world().makeRootfs(id), "private"), { mode: 0o700 });
  const { stdout, status } = await world().run(
    ["sh", "-c", "id -u; readlink /proc/self/cwd"],
    (spec) => {
      spec.process.cwd = "/private";
      spec.process.user = { uid: 1000, gid: 1000 };
    },
    id,
  );
  assert.deepEqual([stdout, status], ["1000\n/private\n", 0]);
});

test("a user or group beyond runc's range is refused, also that which the kernel takes for the one it has", async () => {
  for (const user of [
    { uid: 2 ** 32 - 1, gid: 0 },
    { uid: 1000, gid: 2 ** 32 - 1 },
    { uid: 2 ** 31, gid: 0 },
    { uid: 1000, gid: 1000, additionalGids: [2 ** 32 - 1] },
  ]) {
    const ran = world().run(["id"], (spec) => {
      spec.process.user = user;
    });
    await assert.rejects(
      ran,
      /cannot become user \d+, group \d+: uids and gids must be in range 0-2147483647/,
    );
  }
});

const startErrors: readonly (readonly [name: string, args: string[], cwd: string, error: RegExp])[] = [
  ["a missing command", ["nonesuch"], "/", /exec: "nonesuch": executable file not found in \$PATH/],
  [
    "a missing path",
    ["/bin/nonesuch"],
    "/",
    /exec: "\/bin\/nonesuch": stat \/bin\/nonesuch: no such file or directory/,
  ],
  ["a file that is not executable", ["/etc/passwd"], "/", /exec: "\/etc\/passwd": permission denied/],
  ["a directory", ["/etc"], "/", /exec: "\/etc": is a directory/],
  ["a script without its interpreter", ["/bin/orphan"], "/", /exec \/bin\/orphan: no such file or directory/],
  ["a file of an unknown format", ["/bin/noise"], "/", /exec \/bin\/noise: exec format error/],
  [
    "a working directory that is a file",
    ["true"],
    "/etc/passwd",
    /chdir to cwd \("\/etc\/passwd"\).*not a directory/,
  ],
  ["an empty command line", [], "/", /process\.args is empty/],
];
for (const [name, args, cwd, error] of startErrors) {
  test(`start fails at once with the reason: ${name}`, async () => {
    const id = world().newId();
    const root = world().makeRootfs(id);
    writeFileSync(join(root, "bin/orphan"), "#!/no/such/interpreter\n");
    writeFileSync(join(root, "bin/noise"), Buffer.from([1, 2, 3, 4]));
    chmodSync(join(root, "bin/orphan"), 0o755);
    chmodSync(join(root, "bin/noise"), 0o755);
    await world().create(
      args,
      (spec) => {
        spec.process.cwd = cwd;
      },
      {},
      id,
    );
    const started = Date.now();
    await assert.rejects(world().start(id), error);
    assert.ok(Date.now() - started < 1000, "under a second");
    await world().delete(id);
    assert.equal(world().hasExited(id), false, "no exit is told of what never ran");
  });
}
