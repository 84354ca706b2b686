/** `shim exec` without a terminal: which sandbox, tools, pipes, containers, statuses, and what is written down of it. */
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { scaledMs } from "../../../src/base/timeouts.ts";
import type { Pod, PodContainer } from "../../harness/cri-pod.ts";
import { assertNothingLeftAtTheEnd } from "../../harness/cri-suite.ts";
import { withOperator } from "../../harness/operator.ts";
import { built } from "../../harness/paths.ts";
import { describeResult, runOk } from "../../harness/run.ts";

const suite = withOperator();
const { host, shim, shimOk, ownTest } = suite;
const OURS = "runc has no guest";

interface Pods {
  readonly first: Pod;
  readonly second: Pod;
  /** Of the first one. */
  readonly container: PodContainer;
}

let started: Promise<Pods> | undefined;
const pods = (): Promise<Pods> => {
  started ??= (async () => {
    const [first, second] = await Promise.all([host().runPod("caisson"), host().runPod("caisson")]);
    const container = await first.run({
      name: "app",
      envs: [{ key: "GREETING", value: Buffer.from("hello") }],
    });
    return { first, second, container };
  })();
  return started;
};

/** The run directory of a sandbox, as seen from here. */
async function runDirectory(id: string): Promise<string> {
  const sandboxes = JSON.parse(await shimOk(["list", "--json"])) as { id: string; runDir: string }[];
  return host().world.outside(sandboxes.find((one) => one.id === id)?.runDir ?? "");
}

ownTest(
  "a sandbox is found by its id, a container's id, a pod's name, and the beginning of each",
  OURS,
  async () => {
    const { first, second, container } = await pods();
    const { metadata } = await first.status();
    const name = metadata?.name ?? "";
    const words = [
      first.id,
      first.id.slice(0, 12),
      container.id,
      container.id.slice(0, 12),
      name,
      `default/${name}`,
    ];
    const ids = await Promise.all(
      words.map(async (word) =>
        (await shimOk(["exec", word, "--", "cat", "/proc/sys/kernel/random/boot_id"])).trim(),
      ),
    );
    assert.match(ids[0] ?? "", /^[0-9a-f-]{36}$/);
    assert.deepEqual(new Set(ids).size, 1, ids.join("\n"));
    const other = await shimOk(["exec", second.id, "cat", "/proc/sys/kernel/random/boot_id"]);
    assert.notEqual(other.trim(), ids[0]);
  },
);

ownTest("a name that fits several sandboxes, or none, is an error that names them", OURS, async () => {
  const { first, second } = await pods();
  const several = await shim(["exec", "pod", "--", "true"]);
  assert.equal(several.code, 125, describeResult(several));
  assert.match(several.stderr, new RegExp(`"pod" fits several sandboxes: .*${first.id}`));
  assert.match(several.stderr, new RegExp(second.id));
  const none = await shim(["exec", "nothere", "--", "true"]);
  assert.equal(none.code, 125, describeResult(none));
  assert.match(none.stderr, /no sandbox, container or pod "nothere"; .*shim list/);
});

ownTest("the guest has tools although its image has none", OURS, async () => {
  const { first } = await pods();
  const script =
    "ls /proc/1 | grep -c '^comm$'; ps | grep -c init; ip -4 -o addr show lo; mount | grep -c ' / '; which vi";
  const [comm, ps, address, mounts, vi] = (await shimOk(["exec", first.id, "--", "sh", "-c", script])).split(
    "\n",
  );
  assert.equal(comm, "1");
  assert.ok(Number(ps) >= 1, ps);
  assert.match(address ?? "", /127\.0\.0\.1\/8/);
  assert.ok(Number(mounts) >= 1, mounts);
  assert.match(vi ?? "", /\/vi$/);
});

ownTest("input, output and errors are pipes of their own, of any size and any bytes", OURS, async () => {
  const { first } = await pods();
  const both = await shim(["exec", first.id, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
  assert.deepEqual([both.stdout, both.stderr, both.code], ["out\n", "err\n", 7]);
  const input = Buffer.alloc(1_500_000);
  for (let at = 0; at < input.length; at++) input[at] = (at * 31 + (at >> 8)) & 0xff;
  const chunks: Buffer[] = [];
  const onStdout = (chunk: Buffer) => void chunks.push(chunk);
  const copied = await shim(["exec", first.id, "cat"], { input, onStdout });
  assert.equal(copied.code, 0, describeResult(copied));
  assert.ok(Buffer.concat(chunks).equals(input), `${Buffer.concat(chunks).length} of ${input.length} bytes`);
});

ownTest("the exit status is the command's, 128 and the signal's number, 126 or 127", OURS, async () => {
  const { first } = await pods();
  const cases: [string[], number][] = [
    [["sh", "-c", "exit 42"], 42],
    [["sh", "-c", "kill -9 $$"], 137],
    [["/etc/passwd"], 126],
    [["no-such-program"], 127],
  ];
  for (const [argv, status] of cases) {
    const result = await shim(["exec", first.id, "--", ...argv]);
    assert.equal(result.code, status, describeResult(result));
  }
  const variable = await shim(["exec", "--env", "NAME", first.id, "true"]);
  assert.equal(variable.code, 2, describeResult(variable));
  assert.match(variable.stderr, /--env takes NAME=VALUE, not "NAME"/);
  // A start that failed is no fault of the agent.
  assert.equal(await shimOk(["logs", "--level", "error", "--component", "agent", first.id]), "");
});

ownTest("several sessions run at one time, each with its own streams", OURS, async () => {
  const { first } = await pods();
  const numbers = [1, 2, 3, 4, 5, 6];
  const results = await Promise.all(
    numbers.map((number) =>
      shim(["exec", first.id, "--", "sh", "-c", `read x; echo ${number}$x`], { input: "!\n" }),
    ),
  );
  assert.deepEqual(
    results.map(({ stdout }) => stdout.trim()),
    numbers.map((number) => `${number}!`),
    results.map(describeResult).join("\n"),
  );
});

ownTest(
  "even the guest's root writes into what the host shares with a container, and not beside it",
  OURS,
  async () => {
    const { first, container } = await pods();
    const guest = (command: string) =>
      shim(["exec", first.id, "--", "sh", "-c", `cd /run/caisson/shared && ${command}`]);
    for (const command of [
      "touch new",
      "mkdir .volumes/new",
      "mv .volumes .moved",
      `ln -s /etc ${container.id}/link`,
    ]) {
      const refused = await guest(command);
      assert.match(refused.stderr, /Read-only file system/, `${command}: ${describeResult(refused)}`);
    }
    const written = await guest(`touch ${container.id}/rootfs/new`);
    assert.equal(written.code, 0, describeResult(written));
  },
);

ownTest(
  "--container enters a container's namespaces, with its environment and tools that it lacks",
  OURS,
  async () => {
    const { first, container } = await pods();
    const inside = await shimOk([
      "exec",
      "-c",
      container.id.slice(0, 12),
      first.id,
      "--",
      "sh",
      "-c",
      "echo $GREETING; ls /www; hostname",
    ]);
    assert.deepEqual(inside.trim().split("\n").slice(0, 2), ["hello", "index.html"]);
    const guest = await shim(["exec", first.id, "--", "ls", "/www"]);
    assert.notEqual(guest.code, 0, describeResult(guest));
    const wrong = await shim(["exec", "-c", "zzz", first.id, "--", "true"]);
    assert.equal(wrong.code, 125, describeResult(wrong));
    assert.match(wrong.stderr, new RegExp(`has no container "zzz"; it has .*${container.id}`));
  },
);

ownTest("what a command leaves running ends with it", OURS, async () => {
  const { first } = await pods();
  await shimOk(["exec", first.id, "--", "sh", "-c", "sleep 4321 & exit 0"]);
  const after = await shimOk(["exec", first.id, "--", "sh", "-c", "ps | grep -c '[s]leep 4321' || true"]);
  assert.equal(after.trim(), "0");
});

ownTest(
  "the tools are sent once for sessions side by side, and gone from the guest's memory after the last",
  OURS,
  async () => {
    const { first, container } = await pods();
    const tools = "/run/caisson/tools";
    const session = (script: string) => shimOk(["exec", first.id, "--", "sh", "-c", script]);
    const wait = (file: string) => `until [ -e ${file} ]; do sleep 0.1; done`;
    const inode = `stat -c %i ${tools}/busybox`;
    const [one, two] = await Promise.all([
      session(`${inode}; touch ${tools}/mark /tmp/here; ${wait("/tmp/enough")}`),
      session(`${wait("/tmp/here")}; ${inode}; ls ${tools}/mark; touch /tmp/enough`),
    ]);
    // The same file, not one of the same bytes.
    assert.equal(two, `${one}${tools}/mark\n`);

    const shmem = /Shmem: +(\d+) kB/;
    const kB = (text: string) => Number(shmem.exec(text)?.[1]);
    const last = await session(`du -sk ${tools}; grep Shmem: /proc/meminfo`);
    const [size = 0] = last.split("\t").map(Number);
    assert.ok(size > 500, last);
    // A container sees the memory of the whole guest, and looking from there brings no tools.
    const seen = async () => kB(await container.ok("grep Shmem: /proc/meminfo"));
    const deadline = performance.now() + scaledMs(60_000);
    let now = await seen();
    // Counters of processors lag a little behind; half of it is more than that.
    while (now > kB(last) - size / 2) {
      assert.ok(performance.now() < deadline, `${now} kB after ${last}`);
      await sleep(500);
      now = await seen();
    }
    assert.equal(await session(`ls ${tools}; rm /tmp/here /tmp/enough`), "bin\nbusybox\n");
    assert.notEqual(await session(inode), one);
  },
);

ownTest(
  "each use is in the sandbox's log and in containerd's, with who did what and how it ended",
  OURS,
  async () => {
    const { second } = await pods();
    const mark = `mark-${process.pid}`;
    await shim(["exec", second.id, "--", "sh", "-c", `: ${mark}; exit 3`], { env: { SUDO_USER: "alice" } });
    const records = (await shimOk(["logs", "--json", second.id]))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    const opened = records.find(({ command }) => String(command).includes(mark));
    assert.match(String(opened?.client), /^root \(sudo by alice\), pid \d+$/, JSON.stringify(opened));
    const closed = records.find(({ msg, status }) => msg === "debug console closed" && status === 3);
    assert.ok(closed !== undefined, JSON.stringify(records));
    assert.match(host().containerd.log(), new RegExp(mark));
    assert.match(
      await shimOk(["events", second.id]),
      new RegExp(`console-opened: .*${mark}.*\\n.*console-closed: .*status 3`),
    );
  },
);

ownTest("only root can reach the console: its socket is 0600 in a directory of 0700", OURS, async () => {
  const { first } = await pods();
  const directory = await runDirectory(first.id);
  assert.equal(statSync(directory).mode & 0o777, 0o700);
  for (const name of ["console.sock", "shim.sock"])
    assert.equal(statSync(join(directory, name)).mode & 0o777, 0o600, name);
});

ownTest("debug_console_enabled = false forbids exec and cp, and says so", OURS, async () => {
  host().configure({ "agent.caisson.debug_console_enabled": false });
  const closed = await host().runPod("caisson");
  host().configure();
  const result = await shim(["exec", closed.id, "--", "true"]);
  assert.equal(result.code, 125, describeResult(result));
  assert.match(
    result.stderr,
    /forbidden by debug_console_enabled = false .*configuration\.toml; change it and start the pod anew/,
  );
  const copy = await shim(["cp", `${closed.id}:/etc/passwd`, host().world.dir]);
  assert.equal(copy.code, 4, describeResult(copy));
  const [sandbox] = (
    JSON.parse(await shimOk(["list", "--json"])) as { id: string; console: unknown }[]
  ).filter(({ id }) => id === closed.id);
  assert.deepEqual(sandbox?.console, { enabled: false, sessions: 0 });
  await host().release(closed);
});

ownTest("bash completes commands, options, their words, files and the sandboxes that run", OURS, async () => {
  const { first, second } = await pods();
  const script = `source <(shim completion bash)
    offer() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shim; echo "\${COMPREPLY[*]}"; }
    offer shim e
    offer shim config ''
    offer shim config show --c
    offer shim logs --level w
    offer shim config check /etc/hostnam
    offer shim exec ${first.id.slice(0, 6)}
    offer shim cp --q
    complete -p shim`;
  const environment = [`PATH=${built.bin}:${process.env.PATH}`, `CAISSON_CONF_FILE=${host().configFile}`];
  const { stdout } = await runOk(host().world.enter(["env", ...environment, "bash", "--norc", "-c", script]));
  const [commands, members, options, levels, files, ids, copy, registered] = stdout.split("\n");
  assert.deepEqual(
    [commands, members, options, levels, files, copy],
    ["exec events env", "paths show check", "--config --changed", "warn", "/etc/hostname", "--quiet"],
  );
  assert.equal(ids, first.id);
  assert.notEqual(ids, second.id);
  assert.equal(registered, "complete -F _shim shim");
});

ownTest(
  "without a static busybox there is a container's own programs, and the package to install",
  OURS,
  async () => {
    const { first, container } = await pods();
    const env = { CAISSON_TOOLS: "/nonexistent" };
    const guest = await shim(["exec", first.id, "--", "true"], { env });
    assert.equal(guest.code, 125, describeResult(guest));
    assert.match(guest.stderr, /no static busybox .*\/nonexistent.*install the package busybox-static/);
    assert.equal(
      await shimOk(["exec", "-c", container.id, first.id, "cat", "/www/index.html"], { env }),
      "served from a pod\n",
    );
  },
);

ownTest("a stopped sandbox and one without a shim are told apart, each with what to do", OURS, async () => {
  const { first, second, container } = await pods();
  await host().release(second);
  const stopped = await shim(["exec", second.id, "--", "true"]);
  assert.equal(stopped.code, 125, describeResult(stopped));
  assert.match(stopped.stderr, /no sandbox, container or pod .*shim list/);
  const [sandbox] = JSON.parse(await shimOk(["list", "--json"])) as {
    processes: { name: string; pid: number }[];
  }[];
  const pid = sandbox?.processes.find(({ name }) => name === "shim")?.pid ?? 0;
  // It would tidy up at once.
  host().containerd.pause();
  await runOk(host().world.enter(["kill", "-9", String(pid)]));
  const orphan = await shim(["exec", first.id, "--", "true"]);
  assert.equal(orphan.code, 125, describeResult(orphan));
  assert.match(orphan.stderr, /is an orphan: its shim is gone.*shim logs.*shim gc/);
  const copy = await shim(["cp", `${first.id}:/etc/passwd`, host().world.dir]);
  assert.equal(copy.code, 5, describeResult(copy));
  assert.match(await shimOk(["list"]), /orphaned/);
  assert.match(await shimOk(["logs", first.id]), /debug console opened/);
  // The machine has gone with its shim.
  for (const verb of ["show", "doctor"]) {
    const network = await shim(["net", verb, first.id]);
    assert.equal(network.code, 5, describeResult(network));
    assert.match(network.stderr, /has no running VM.*; shim logs \S+ tells why/);
  }
  const dry = await shimOk(["gc", "--dry-run"]);
  assert.match(dry, new RegExp(`would remove sandbox ${first.id}`));
  assert.match(await shimOk(["list"]), /orphaned/);
  const { garbage, living } = JSON.parse(await shimOk(["gc", "--json"])) as {
    garbage: { sandbox?: string; failures: string[] }[];
    living: number;
  };
  assert.ok(
    garbage.some(({ sandbox: id }) => id === first.id),
    JSON.stringify(garbage),
  );
  assert.deepEqual(
    garbage.flatMap(({ failures }) => failures),
    [],
  );
  assert.equal(living, 0);
  assert.equal(await shimOk(["list", "--quiet"]), "");
  assert.equal(await shimOk(["gc"]), "");
  host().containerd.resume();
  // containerd hears of the shim's end by itself, in its time.
  await container.exited();
});

assertNothingLeftAtTheEnd(suite);
