/** `ctr run`: a process in a microVM that starts its kernel, from its first byte to its exit code. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { importBusybox } from "../../harness/images.ts";
import { describeResult } from "../../harness/run.ts";
import { TestHost, WITHOUT_TEMPLATE, withTestHost } from "../../harness/test-host.ts";

const { ledgeredTest } = withTestHost("system", { config: WITHOUT_TEMPLATE });

ledgeredTest("run gives both streams and the exit code", async (host) => {
  const result = await host.run(["sh", "-c", "echo out; echo err >&2; exit 7"]);
  assert.deepEqual(
    [result.stdout, result.stderr, result.code],
    ["out\n", "err\n", 7],
    describeResult(result),
  );
});

ledgeredTest("a process that a signal ended gives 128 plus its number", async (host) => {
  const result = await host.run(["sh", "-c", "kill -TERM $$; sleep 0.2"]);
  // Init of a pid namespace ignores signals that it has no handler for, so a child sends itself one.
  const child = await host.run(["sh", "-c", "sh -c 'kill -SEGV $$'; exit $?"]);
  assert.equal(child.code, 139, describeResult(child));
  assert.equal(result.code, 0, describeResult(result));
});

ledgeredTest("the process runs under another kernel than the host's", async (host) => {
  const result = await host.run(["sh", "-c", "cat /proc/sys/kernel/random/boot_id; cat /proc/1/comm"]);
  const [bootId, comm] = result.stdout.trim().split("\n");
  assert.match(bootId ?? "", /^[0-9a-f-]{36}$/, describeResult(result));
  assert.notEqual(bootId, TestHost.bootId());
  assert.equal(comm, "cat");
});

ledgeredTest("environment, working directory and user are those asked for", async (host) => {
  const image = "docker.io/library/busybox:user";
  await importBusybox(host.containerd, { name: image, user: "1000:2000" });
  const flags = ["--env", "GREETING=hello there", "--cwd", "/var"];
  const argv = ["sh", "-c", 'echo "$GREETING"; pwd; id -u; id -g; touch /root/x 2>/dev/null || echo refused'];
  const result = await host.run(argv, { flags, image });
  const expected = ["hello there", "/var", "1000", "2000", "refused", ""];
  assert.deepEqual(result.stdout.split("\n"), expected, describeResult(result));
});

ledgeredTest("credentials, limits and mounts are those that runc gives", async (host) => {
  const script = [
    "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):' /proc/self/status",
    "ulimit -n",
    "umask",
    "readlink /proc/self/fd/0 | sed 's/:.*//'",
    // Kernels differ in what they mask below /proc, and in whether a mount in memory keeps access times.
    "awk '{ print $5, $6 }' /proc/self/mountinfo | grep -v -e '^/ ' -e ^/proc/kcore -e ^/proc/acpi -e ^/proc/scsi -e ^/proc/sysrq | sed 's/,relatime//' | sort",
    "ls -1 /dev | grep -v -e ^console$ -e ^core$ | sort",
    // Of the kernels one may have /proc/kcore and the other not.
    'core=$([ ! -e /proc/kcore ] || echo /proc/kcore); [ "$(readlink /dev/core)" = "$core" ]; echo "core: $?"',
    "ls -ld /proc/sys /dev/null /dev/ptmx | cut -c 1-10",
    "sh -c 'echo x > /proc/sys/kernel/domainname' 2>&1 | tail -1 | sed 's/.*: //'",
  ].join("; ");
  const flags = ["--cap-drop", "CAP_CHOWN", "--cap-add", "CAP_SYS_ADMIN", "--env", "A=b"];
  const ours = await host.run(["sh", "-c", script], { flags });
  const control = await host.runControl(["sh", "-c", script], { flags });
  assert.equal(control.code, 0, describeResult(control));
  assert.match(control.stdout, /^core: 0$/m);
  assert.deepEqual(ours.stdout.split("\n"), control.stdout.split("\n"), describeResult(ours));
});

ledgeredTest(
  "bind mounts of files and directories, writable and read-only, are what the process sees",
  async (host) => {
    const shared = join(host.world.dir, "shared");
    mkdirSync(join(shared, "sub"), { recursive: true });
    writeFileSync(join(shared, "sub/from-host"), "host\n");
    const file = join(host.world.dir, "one-file");
    writeFileSync(file, "one\n");
    const mount = (src: string, dst: string, mode: string) => [
      "--mount",
      `type=bind,src=${src},dst=${dst},options=rbind:${mode}`,
    ];
    const flags = [
      ...mount(shared, "/rw", "rw"),
      ...mount(shared, "/ro", "ro"),
      ...mount(file, "/etc/one", "ro"),
      ...mount(file, "/etc/two", "rw"),
    ];
    const script = [
      "cat /rw/sub/from-host /ro/sub/from-host /etc/one",
      "echo guest > /rw/from-guest && cat /ro/from-guest",
      "echo no > /ro/sub/from-host; echo $?",
      "echo no > /etc/one; echo $?",
      "echo two > /etc/two; cat /etc/one",
    ].join("; ");
    const result = await host.run(["sh", "-c", script], { flags });
    const expected = ["host", "host", "one", "guest", "1", "1", "two", ""];
    assert.deepEqual(result.stdout.split("\n"), expected, describeResult(result));
    assert.equal(readFileSync(join(shared, "from-guest"), "utf8"), "guest\n");
    assert.equal(readFileSync(join(shared, "sub/from-host"), "utf8"), "host\n");
    assert.equal(readFileSync(file, "utf8"), "two\n");
  },
);

ledgeredTest("what the process writes into its root file system stays in this container", async (host) => {
  const first = await host.run(["sh", "-c", "echo mine > /root/file && sync && cat /root/file"]);
  assert.deepEqual([first.stdout, first.code], ["mine\n", 0], describeResult(first));
  const second = await host.run(["ls", "/root"]);
  assert.deepEqual([second.stdout, second.code], ["", 0], describeResult(second));
});

ledgeredTest("a read-only root file system refuses writes", async (host) => {
  const result = await host.run(["sh", "-c", "echo x > /root/file"], { flags: ["--read-only"] });
  assert.equal(result.code, 1);
  assert.match(result.stderr, /Read-only file system/);
});

ledgeredTest("memory and cpu limits reach the guest's cgroup, which a cgroup mount shows", async (host) => {
  const mount = ["--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid:noexec:nodev"];
  const flags = ["--memory-limit", String(64 << 20), "--cpus", "0.5", ...mount];
  const script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max";
  const result = await host.run(["sh", "-c", script], { flags });
  assert.deepEqual(result.stdout.split("\n"), [String(64 << 20), "50000 100000", ""], describeResult(result));
});

ledgeredTest("a missing program is refused soon, naming it", async (host) => {
  const id = await host.runDetached(["sleep", "1000"]);
  const exec = await host.exec(id, ["/no/such/program"]);
  assert.notEqual(exec.code, 0);
  assert.match(exec.stderr, /\/no\/such\/program/);
  assert.match(exec.stderr, /no such file/i);
  assert.ok(exec.durationMs < 3_000, describeResult(exec));
  await host.remove(id);
  const run = await host.run(["/no/such/program"]);
  assert.notEqual(run.code, 0);
  assert.match(run.stderr, /\/no\/such\/program/);
});

ledgeredTest("two containers run in two machines at the same time", async (host) => {
  const [first, second] = await Promise.all([
    host.runDetached(["sleep", "1000"]),
    host.runDetached(["sleep", "1000"]),
  ]);
  assert.equal(host.world.processes().filter((p) => p.commandLine.includes("qemu-system")).length, 2);
  const bootIds = await Promise.all(
    [first, second].map(
      async (id) => (await host.exec(id, ["cat", "/proc/sys/kernel/random/boot_id"])).stdout,
    ),
  );
  assert.match(bootIds[0] ?? "", /^[0-9a-f-]{36}\n$/);
  assert.notEqual(bootIds[0], bootIds[1]);
  await Promise.all([host.remove(first), host.remove(second)]);
});
