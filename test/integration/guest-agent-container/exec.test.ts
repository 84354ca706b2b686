import assert from "node:assert/strict";
import {
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { StreamKind } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { useWorld } from "./world.ts";

const world = useWorld();

test("an exec runs in the container's namespaces, root and cgroup", async () => {
  const id = await world().sleeper();
  const script =
    "for n in mnt pid ipc uts cgroup net; do readlink /proc/self/ns/$n; done; grep ^0: /proc/self/cgroup; ls /";
  const exec = await world().execSh(id, script);
  const first = await world().execSh(
    id,
    "for n in mnt pid ipc uts cgroup net; do readlink /proc/1/ns/$n; done; grep ^0: /proc/1/cgroup; ls /proc/1/root/",
    (process) => {
      process.capabilities = withPtrace(process.capabilities);
    },
  );
  assert.equal(exec.stdout, first.stdout);
  assert.equal(exec.status, 0);
  await world().delete(id);
});

/** Reading the links of another process needs CAP_SYS_PTRACE. */
function withPtrace(capabilities: unknown): Record<string, string[]> {
  const sets = capabilities as Record<string, string[]>;
  return Object.fromEntries(Object.entries(sets).map(([name, list]) => [name, [...list, "CAP_SYS_PTRACE"]]));
}

test("an exec has its own user, environment, directory and exit code", async () => {
  const id = await world().sleeper();
  const { stdout, stderr, status } = await world().execSh(
    id,
    "id -u; pwd; echo $X; echo oops >&2; exit 3",
    (process) => {
      process.user = { uid: 1000, gid: 1000 };
      process.cwd = "/tmp";
      process.env = ["PATH=/bin", "X=y"];
    },
  );
  assert.deepEqual({ stdout, stderr, status }, { stdout: "1000\n/tmp\ny\n", stderr: "oops\n", status: 3 });
  await world().delete(id);
});

test("HOME of an exec is what passwd says at that time, also where the container's filter forbids to send messages", async () => {
  const id = await world().sleeper((spec) => {
    // It says to the agent what it has found: not when the container's filter is in force already.
    const killed = { names: ["sendmsg"], action: "SCMP_ACT_KILL_PROCESS" };
    spec.linux.seccomp = { defaultAction: "SCMP_ACT_ALLOW", syscalls: [killed] };
  });
  const passwd = join(world().dir, id, "etc/passwd");
  const home = async (uid: number) => {
    const { stdout } = await world().execSh(id, "echo $HOME", (process) => {
      process.user = { uid, gid: uid };
    });
    return stdout.trim();
  };
  const seen = [await home(1000), await home(1000), await home(0), await home(5)];
  const { size, atime, mtime } = statSync(passwd);
  writeFileSync(passwd, "app:x:1000:1000:app:/home/new:/bin/sh\n".padEnd(size, "\n"));
  utimesSync(passwd, atime, mtime);
  seen.push(await home(1000), await home(0));
  renameSync(passwd, `${passwd}.moved`);
  seen.push(await home(1000));
  symlinkSync("passwd.moved", passwd);
  seen.push(await home(1000));
  unlinkSync(passwd);
  assert.deepEqual(seen, ["/home/app", "/home/app", "/root", "/", "/home/new", "/", "/", "/home/new"]);
  await world().delete(id);
});

test("an exec that a signal ends has status 128 plus its number", async () => {
  const id = await world().sleeper();
  const execId = await world().exec(id, ["sleep", "1000"]);
  await world().kill(id, 15, execId);
  assert.equal(await world().exit(id, execId), 143);
  assert.equal(world().hasExited(id), false);
  await world().delete(id);
});

test("an exec has no descriptors but stdio, default signal dispositions, and a session of its own", async () => {
  const id = await world().sleeper();
  const plain = async (args: string[]) => {
    const execId = await world().exec(id, args);
    return (await world().finish(id, execId)).stdout;
  };
  // 3 is ls's own, of the directory.
  assert.equal(await plain(["ls", "/proc/self/fd"]), "0\n1\n2\n3\n");
  const signals = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
  assert.equal(await plain(["grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"]), signals);
  assert.match(await plain(["cut", "-d ", "-f1,4,6,7", "/proc/self/stat"]), /^(\d+) 0 \1 0\n$/);
  assert.equal(await plain(["stat", "-L", "-c", "%t:%T", "/proc/self/fd/0"]), "1:3\n");
  await world().delete(id);
});

test("limits, priorities, groups and capabilities of an exec are those of its own spec", async () => {
  const id = await world().sleeper();
  const script =
    "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj; cut -d' ' -f19,41 /proc/self/stat; ionice -p $$; id -G; umask; grep -E '^(Cap|NoNewPrivs)' /proc/self/status";
  const { stdout } = await world().execSh(id, script, (process) => {
    process.rlimits = [
      { type: "RLIMIT_NOFILE", soft: 77, hard: 99 },
      // The bits of 2^64-1, which no number of JavaScript is.
      { type: "RLIMIT_CORE", soft: -1, hard: -1 },
    ];
    process.oomScoreAdj = 444;
    process.scheduler = { policy: "SCHED_BATCH", nice: 5 };
    process.ioPriority = { class: "IOPRIO_CLASS_IDLE", priority: 0 };
    process.user = { uid: 7, gid: 8, additionalGids: [9, 2147483647], umask: 0o027 };
    const ambient = ["CAP_NET_RAW"];
    process.capabilities = {
      bounding: ["CAP_NET_RAW", "CAP_CHOWN"],
      effective: ambient,
      permitted: ambient,
      inheritable: ambient,
      ambient,
    };
  });
  const raw = "0000000000002000";
  const status = `CapInh:\t${raw}\nCapPrm:\t${raw}\nCapEff:\t${raw}\nCapBnd:\t0000000000002001\nCapAmb:\t${raw}\nNoNewPrivs:\t1\n`;
  assert.equal(stdout, `77\n99\nunlimited\n444\n5 3\nidle\n8 9 2147483647\n0027\n${status}`);
  await world().delete(id);
});

const failures: readonly (readonly [name: string, args: string[], cwd: string, error: RegExp])[] = [
  ["a missing command", ["nonesuch"], "/", /exec: "nonesuch": executable file not found in \$PATH/],
  ["a missing path", ["/no/such"], "/", /exec: "\/no\/such": stat \/no\/such: no such file or directory/],
  ["a file that is not executable", ["/etc/passwd"], "/", /exec: "\/etc\/passwd": permission denied/],
  ["a directory", ["/etc"], "/", /exec: "\/etc": is a directory/],
  ["a file of an unknown format", ["/bin/noise"], "/", /exec \/bin\/noise: exec format error/],
  ["a working directory that is a file", ["true"], "/etc/passwd", /chdir to cwd .*not a directory/],
  ["an empty command line", [], "/", /process\.args is empty/],
];
for (const [name, args, cwd, error] of failures) {
  test(`an exec fails with the reason: ${name}`, async () => {
    const id = await world().sleeper();
    const noise = join(world().dir, id, "bin/noise");
    writeFileSync(noise, Buffer.from([1, 2, 3, 4]), { mode: 0o755 });
    const exec = world().exec(id, args, (process) => {
      process.cwd = cwd;
    });
    await assert.rejects(exec, error);
    assert.equal((await world().execSh(id, "echo fine")).stdout, "fine\n", "the container goes on");
    await world().delete(id);
  });
}

test("an error of any length, in any characters, keeps no exit from the host", async () => {
  const id = await world().sleeper();
  for (const name of ["\u0001".repeat(60_000), "x".repeat(400_000), "\u{1f600}".repeat(50_000)]) {
    await assert.rejects(world().exec(id, [name]), /exec: |too long/i);
    assert.equal((await world().execSh(id, "exit 3")).status, 3);
  }
  await world().delete(id);
});

test("a limit that an exec cannot have is named, with the kernel's words", async () => {
  const id = await world().sleeper();
  const exec = world().exec(id, ["true"], (process) => {
    process.rlimits = [
      { type: "RLIMIT_CORE", soft: 0, hard: 0 },
      { type: "RLIMIT_NOFILE", soft: 9, hard: 8 },
    ];
  });
  await assert.rejects(
    exec,
    /cannot set RLIMIT_NOFILE to 9 \(soft\) and 8 \(hard\): prlimit: Invalid argument/,
  );
  await world().delete(id);
});

test("execs go on when what clones them was killed", async () => {
  const id = await world().sleeper();
  const { agent } = world();
  const children = () =>
    readFileSync(`/proc/${agent.pid}/task/${agent.pid}/children`, "utf8").trim().split(" ");
  const spawner = () => children().filter((pid) => readFileSync(`/proc/${pid}/comm`, "utf8") === "spawner\n");
  const [first] = spawner();
  process.kill(Number(first), "SIGKILL");
  const descriptors = agent.openDescriptors;
  for (let n = 0; n < 3; n++) assert.equal((await world().execSh(id, "echo fine")).stdout, "fine\n");
  assert.equal(spawner().length, 1);
  assert.notDeepEqual(spawner(), [first]);
  assert.equal(agent.openDescriptors, descriptors);
  await world().delete(id);
});

test("fifty execs at once all answer", async () => {
  const id = await world().sleeper();
  const results = await Promise.all(
    Array.from({ length: 50 }, (_, n) => world().execSh(id, `echo ${n}; exit ${n}`)),
  );
  results.forEach(({ stdout, status }, n) => {
    assert.deepEqual([stdout, status], [`${n}\n`, n]);
  });
  await world().delete(id);
});

test("hundreds of execs in a row leave no memory behind", async () => {
  const id = await world().sleeper();
  const facts = async () => (await world().agent.calls.guestInfo({})).agentRssBytes;
  for (let n = 0; n < 250; n++) await world().execSh(id, "true");
  const before = await facts();
  for (let n = 0; n < 150; n++) await world().execSh(id, "true");
  const grown = Number((await facts()) - before);
  assert.ok(grown < 256 * 1024, `grew by ${grown} bytes`);
  await world().delete(id);
});

test("an exit tells how much was written before it, whether it was fetched or not", async () => {
  const id = await world().sleeper();
  const written = async (execId: string) => {
    const { event } = await world().agent.event(
      ({ event: it }) => it.case === "processExited" && it.value.execId === execId,
    );
    return event.case === "processExited" ? [event.value.stdoutBytes, event.value.stderrBytes] : [];
  };
  const script = "head -c 40000 /dev/zero; echo err >&2";
  const unread = await world().exec(id, ["sh", "-c", script]);
  assert.deepEqual(await written(unread), [40_000n, 4n]);
  const read = await world().exec(id, ["sh", "-c", `read line; ${script}; read line`], undefined, {
    stdin: true,
  });
  const stdin = await world().open(id, read, StreamKind.STDIN);
  const stdout = await world().open(id, read, StreamKind.STDOUT);
  await stdin.send(Buffer.from("go\n"));
  let bytes = 0;
  for await (const chunk of stdout.readable) {
    bytes += chunk.length;
    if (bytes === 40_000) await stdin.sendEof();
  }
  assert.deepEqual(await written(read), [40_000n, 4n]);
  await world().delete(id);
});

test("an exec needs a container that runs", async () => {
  const id = await world().create(["true"]);
  await assert.rejects(world().exec(id, ["true"]), /has not been started/);
  await world().start(id);
  await world().exit(id);
  await assert.rejects(world().exec(id, ["true"]), /has exited/);
  await world().delete(id);
  await assert.rejects(world().exec(id, ["true"]), /there is no container/);
});

test("ending the container ends its execs, and each end is told once", async () => {
  const id = await world().sleeper();
  const execId = await world().exec(id, ["sleep", "1000"]);
  await world().kill(id, 9);
  assert.equal(await world().exit(id), 137);
  assert.equal(await world().exit(id, execId), 137);
  const told = world().agent.events.filter(
    ({ event }) => event.case === "processExited" && event.value.containerId === id,
  );
  assert.equal(told.length, 2);
  await world().delete(id);
});

test("orphans of an exec are the first process's to reap, not left as zombies of the agent", async () => {
  const id = await world().create(["sh", "-c", "while :; do sleep 0.05; done"]);
  await world().start(id);
  await world().execSh(id, "sh -c 'sleep 0.1 & sleep 0.1 &'");
  await new Promise((resolve) => setTimeout(resolve, 400));
  const { processes } = await world().agent.calls.listProcesses({ containerId: id });
  assert.deepEqual(
    processes.filter(({ command }) => command.startsWith("sleep 0.1")),
    [],
  );
  const { stdout } = await world().execSh(id, "grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l");
  assert.equal(stdout, "0\n");
  await world().delete(id);
});

test("an exec is deleted once it has ended, and not before", async () => {
  const id = await world().sleeper();
  const execId = await world().exec(id, ["sleep", "1000"]);
  const remove = () => world().agent.calls.deleteProcess({ containerId: id, execId });
  await assert.rejects(remove(), /cannot be deleted: it is running/);
  await world().kill(id, 9, execId);
  await world().exit(id, execId);
  await remove();
  await assert.rejects(remove(), /has no exec/);
  await world().delete(id);
});

test("an exec takes arguments and variables of more than one message's size", async () => {
  const id = await world().sleeper();
  const value = "x".repeat(100_000);
  const { stdout } = await world().execSh(id, "env | wc -c", (process) => {
    process.env = ["PATH=/bin", ...Array.from({ length: 12 }, (_, n) => `V${n}=${value}`)];
  });
  assert.ok(Number(stdout) > 1_200_000, stdout);
  await world().delete(id);
});
