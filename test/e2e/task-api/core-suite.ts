/** What must work with every containerd: a life of a container through `ctr`, call by call. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { ContainerdVersion } from "../../harness/containerd.ts";
import { onTerminal, TERMINAL_SIZE } from "../../harness/on-terminal.ts";
import { describeResult, runOk } from "../../harness/run.ts";
import { type TestHost, withTestHost } from "../../harness/test-host.ts";

/** Collects the topics of `ctr events` while `body` runs, and after it until there are as many as expected. */
export async function topicsOf(
  host: TestHost,
  expected: number,
  body: () => Promise<void>,
): Promise<{ topics: string[]; text: string }> {
  const [file = "", ...args] = host.containerd.ctrCommand(["events"]);
  const events = spawn(file, args, { stdio: ["ignore", "pipe", "ignore"] });
  let text = "";
  events.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  try {
    await sleep(300); // ctr says nothing when it has subscribed
    await body();
    const deadline = performance.now() + 5_000;
    while (topicsIn(text).length < expected && performance.now() < deadline) await sleep(50);
  } finally {
    // nsenter passes signals on to nobody: the process below it is ctr.
    for (const { pid, commandLine } of host.world.processes())
      if (commandLine.endsWith(" events")) process.kill(pid);
    events.kill("SIGKILL");
  }
  return { topics: topicsIn(text), text };
}

const topicsIn = (text: string): string[] => text.match(/\/tasks\/[a-z-]+/g) ?? [];

/** In the world's own network namespace. */
const EXPORTER = "127.0.0.1:1338";

/** What containerd's exporter serves of its tasks: lines "container_NAME{container_id="…",…} VALUE". */
async function exported(host: TestHost): Promise<string> {
  const script = `fetch("http://${EXPORTER}/v1/metrics").then((it) => it.text()).then((it) => console.log(it))`;
  return (await runOk(host.world.enter([process.execPath, "-e", script]))).stdout;
}

/** The names of the version of the message: what `ctr task metrics` shows in a table, and what the exporter calls it. */
const memoryNames = {
  v1: { shown: /^memory\.usage_in_bytes\s+[1-9]\d+/m, exported: "container_memory_usage_usage_bytes" },
  v2: { shown: /^memory\.usage\s+[1-9]\d+/m, exported: "container_memory_usage_bytes" },
} as const;

const hasFigure = (text: string, name: string, id: string) =>
  new RegExp(`^${name}\\{[^}]*container_id="${id}"[^}]*\\} [1-9]`, "m").test(text);

export function coreSuite(version: ContainerdVersion): ReturnType<typeof withTestHost> {
  const suite = withTestHost(version, { metricsAddress: EXPORTER });
  const { ledgeredTest } = suite;

  ledgeredTest("run gives both streams, the exit code, and its events in order", async (host) => {
    const { topics, text } = await topicsOf(host, 4, async () => {
      const result = await host.run(["sh", "-c", "echo out; echo err >&2; exit 7"]);
      assert.deepEqual(
        [result.stdout, result.stderr, result.code],
        ["out\n", "err\n", 7],
        describeResult(result),
      );
    });
    assert.deepEqual(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"], text);
  });

  ledgeredTest("exec, ps, pause, resume and kill work on a running container", async (host) => {
    const { containerd } = host;
    const id = await host.runDetached([
      "sh",
      "-c",
      "trap 'exit 42' USR1; touch /ready; while :; do sleep 0.1; done",
    ]);
    const exec = await host.exec(id, [
      "sh",
      "-c",
      "until test -e /ready; do sleep 0.1; done; echo hi; exit 5",
    ]);
    assert.deepEqual([exec.stdout, exec.code], ["hi\n", 5], describeResult(exec));
    const missing = await host.exec(id, ["/no/such/program"]);
    assert.match(missing.stderr, /\/no\/such\/program.*no such file/i, describeResult(missing));
    const ps = await containerd.ctrOk(["task", "ps", id]);
    assert.match(ps.stdout, /^PID\s+INFO\n(\d+\s.*\n){1,2}$/, describeResult(ps));
    await containerd.ctrOk(["task", "pause", id]);
    assert.match((await containerd.ctrOk(["task", "list"])).stdout, new RegExp(`${id}\\s.*PAUSED`));
    await containerd.ctrOk(["task", "resume", id]);
    assert.match((await containerd.ctrOk(["task", "list"])).stdout, new RegExp(`${id}\\s.*RUNNING`));
    await containerd.ctrOk(["task", "kill", "--signal", "SIGUSR1", id]);
    await host.waitUntilStopped(id);
    const late = await containerd.ctr(["task", "kill", "--signal", "SIGTERM", id]);
    assert.match(late.stderr, /not found|already finished/, describeResult(late));
    const removed = await containerd.ctr(["task", "delete", id]);
    assert.match(removed.stderr, /exit code 42/, describeResult(removed));
    await containerd.ctrOk(["container", "delete", id]);
  });

  ledgeredTest("a terminal has the size of the caller's", async (host) => {
    const script = `tty; ${TERMINAL_SIZE}; exit 3`;
    const result = await onTerminal(host, host.runArguments(["sh", "-c", script], { flags: ["--tty"] }));
    assert.match(result.stdout, /^\/dev\/pts\/0\n33 99\n/, describeResult(result));
    assert.equal(result.code, 3, describeResult(result));
  });

  ledgeredTest("two containers run in two machines, with figures of either version", async (host) => {
    const { containerd } = host;
    host.configure({ "hypervisor.qemu.enable_annotations": ["stats_format"] });
    const hosts = mountedVersion();
    const other = hosts === "v1" ? "v2" : "v1";
    const flags = ["--annotation", `io.caisson.config.runtime.stats_format=${other}`];
    const [first = "", second = ""] = await Promise.all([
      host.runDetached(["sleep", "1000"]),
      host.runDetached(["sleep", "1000"], { flags }),
    ]);
    const read = async (id: string) =>
      (await host.exec(id, ["cat", "/proc/sys/kernel/random/boot_id"])).stdout;
    const [bootId, otherBootId] = await Promise.all([first, second].map(read));
    assert.match(bootId ?? "", /^[0-9a-f-]{36}\n$/);
    assert.notEqual(bootId, otherBootId);
    for (const [id, format] of [
      [first, hosts],
      [second, other],
    ] as const) {
      const metrics = await containerd.ctrOk(["task", "metrics", id]);
      assert.match(metrics.stdout, memoryNames[format].shown, describeResult(metrics));
    }
    // containerd's own exporter takes what the host has, and nothing else.
    const text = await exported(host);
    const figure = memoryNames[hosts].exported;
    assert.deepEqual([hasFigure(text, figure, first), hasFigure(text, figure, second)], [true, false], text);
    await Promise.all([first, second].map((id) => host.remove(id)));
  });
  return suite;
}

/** Of the metrics message that clients on this host expect: v2 where version 2 alone is mounted (mountinfo, proc(5)). */
function mountedVersion(): "v1" | "v2" {
  return / \/sys\/fs\/cgroup [^\n]* - cgroup2 /.test(readFileSync("/proc/self/mountinfo", "utf8"))
    ? "v2"
    : "v1";
}
