/** `ctr task`: exec, kill, ps, metrics, list, on a running container. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { openDescriptors } from "../../harness/leak-ledger.ts";
import { describeResult, inputOnceStarted } from "../../harness/run.ts";
import { type TestHost, withTestHost } from "../../harness/test-host.ts";
import { childrenOf } from "../../harness/world.ts";

const { ledgeredTest } = withTestHost();

ledgeredTest("exec gives its own streams and exit code, in the container's namespaces", async (host) => {
  const id = await host.runDetached(["sh", "-c", "echo shared > /root/file; exec sleep 1000"], {
    flags: ["--env", "FROM_INIT=1"],
  });
  const script = "cat /root/file; echo err >&2; cat /proc/1/comm; echo $FROM_INIT; exit 5";
  const result = await host.exec(id, ["sh", "-c", script]);
  assert.deepEqual(
    [result.stdout, result.stderr, result.code],
    ["shared\nsleep\n1\n", "err\n", 5],
    describeResult(result),
  );
  const stdin = inputOnceStarted("through exec");
  const cat = await host.exec(id, ["cat"], stdin);
  assert.deepEqual([stdin.output(), cat.code], ["through exec", 0], describeResult(cat));
  const many = await Promise.all(
    Array.from({ length: 8 }, (_, i) => host.exec(id, ["sh", "-c", `echo ${i}; exit ${i}`])),
  );
  assert.deepEqual(
    many.map((r) => [r.stdout, r.code]),
    many.map((_, i) => [`${i}\n`, i]),
  );
  await host.remove(id);
});

ledgeredTest("execs in a row leave no descriptor open in the shim", async (host) => {
  const id = await host.runDetached(["sleep", "1000"]);
  const shim = host.world.processes().find((p) => p.commandLine.startsWith("caisson-shim"));
  assert.ok(shim !== undefined, "no shim process found");
  assert.equal((await host.exec(id, ["true"])).code, 0);
  const before = openDescriptors(shim.pid);
  for (let i = 0; i < 10; i++) assert.equal((await host.exec(id, ["true"])).code, 0);
  // The last connection of ctr's exec may still be closing.
  await sleep(300);
  assert.deepEqual(openDescriptors(shim.pid), before);
  await host.remove(id);
});

/** Bytes that the virtiofsd processes of this host have read so far (proc_pid_io(5)): one does the work of another. */
function virtiofsdReadBytes(host: TestHost): number {
  const daemons = host.world.processes().filter(({ commandLine }) => /\/virtiofsd /.test(commandLine));
  const pids = new Set(daemons.flatMap(({ pid }) => [pid, ...childrenOf(pid)]));
  const bytes = [...pids].map((pid) =>
    Number(/^rchar: (\d+)/.exec(readFileSync(`/proc/${pid}/io`, "utf8"))?.[1]),
  );
  return bytes.reduce((total, one) => total + one, 0);
}

ledgeredTest(
  "what the guest read of a program it keeps for the next exec, of a volume's file it does not",
  async (host) => {
    const volume = join(host.world.dir, "volume");
    mkdirSync(volume);
    writeFileSync(join(volume, "file"), Buffer.alloc(1 << 20));
    const mount = ["--mount", `type=bind,src=${volume},dst=/data,options=rbind:ro`];
    const id = await host.runDetached(["sleep", "1000"], { flags: mount });
    const readBy = async (argv: readonly string[]) => {
      const before = virtiofsdReadBytes(host);
      for (let i = 0; i < 3; i++) assert.equal((await host.exec(id, argv)).code, 0);
      return virtiofsdReadBytes(host) - before;
    };
    const volumeFile = ["md5sum", "/data/file"];
    await readBy(volumeFile);
    const program = await readBy(["true"]);
    assert.ok(program < 100_000, `${program} bytes were read for 3 execs`);
    const kept = await readBy(volumeFile);
    assert.ok(kept >= 3 << 20, `${kept} bytes were read of a file of 1 MiB that was opened 3 times`);
    await host.remove(id);
  },
);

ledgeredTest("kill delivers the signal that was asked for", async (host) => {
  const script = "trap 'exit 42' USR1; touch /ready; while :; do sleep 0.1; done";
  const id = await host.runDetached(["sh", "-c", script]);
  // Init of a pid namespace does not get signals that it has no handler for yet.
  const wait = await host.exec(id, ["sh", "-c", "until test -e /ready; do sleep 0.1; done"]);
  assert.equal(wait.code, 0, describeResult(wait));
  await host.containerd.ctrOk(["task", "kill", "--signal", "SIGUSR1", id]);
  await host.waitUntilStopped(id);
  const removed = await host.containerd.ctr(["task", "delete", id]);
  assert.match(removed.stderr, /exit code 42/, describeResult(removed));
  await host.containerd.ctrOk(["container", "delete", id]);
});

ledgeredTest("kill --all ends every process of the container", async (host) => {
  const id = await host.runDetached(["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
  await host.containerd.ctrOk(["task", "kill", "--all", "--signal", "SIGKILL", id]);
  await host.waitUntilStopped(id);
  const late = await host.containerd.ctr(["task", "kill", "--signal", "SIGTERM", id]);
  assert.match(late.stderr, /not found|already finished/, describeResult(late));
  await host.containerd.ctr(["task", "delete", id]);
  await host.containerd.ctrOk(["container", "delete", id]);
});

ledgeredTest("a command that ends by itself stops its task and keeps its exit code", async (host) => {
  const id = await host.runDetached(["sh", "-c", "exit 9"]);
  await host.waitUntilStopped(id);
  const removed = await host.containerd.ctr(["task", "delete", id]);
  assert.match(removed.stderr, /exit code 9/, describeResult(removed));
  await host.containerd.ctrOk(["container", "delete", id]);
});

ledgeredTest("ps lists the container's processes and metrics give figures", async (host) => {
  const id = await host.runDetached(["sh", "-c", "sleep 1000 & sleep 1000 & touch /ready; wait"]);
  await host.exec(id, ["sh", "-c", "until test -e /ready; do sleep 0.1; done"]);
  const ps = await host.containerd.ctrOk(["task", "ps", id]);
  const pids = ps.stdout
    .trimEnd()
    .split("\n")
    .slice(1)
    .map((line) => Number(line.split(/\s+/)[0]));
  assert.equal(pids.length, 3, describeResult(ps));
  assert.ok(
    pids.every((pid) => Number.isInteger(pid) && pid > 0),
    describeResult(ps),
  );
  const metrics = await host.containerd.ctrOk(["task", "metrics", "--format", "json", id]);
  const figures = JSON.parse(metrics.stdout) as Record<string, Record<string, unknown>>;
  assert.ok(JSON.stringify(figures).length > 50, metrics.stdout);
  assert.ok(
    figures.memory !== undefined && figures.pids !== undefined && figures.cpu !== undefined,
    metrics.stdout,
  );
  await host.remove(id);
});

ledgeredTest("the events of a container's life come in order", async (host) => {
  const [file = "", ...args] = host.containerd.ctrCommand(["events"]);
  const { spawn } = await import("node:child_process");
  const events = spawn(file, args, { stdio: ["ignore", "pipe", "ignore"] });
  let text = "";
  events.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  await sleep(300);
  const result = await host.run(["true"]);
  assert.equal(result.code, 0, describeResult(result));
  await sleep(500);
  // nsenter passes the signal on to nobody: the process below it is ctr.
  for (const { pid, commandLine } of host.world.processes())
    if (commandLine.endsWith(" events")) process.kill(pid);
  const topics = text.match(/\/tasks\/[a-z-]+/g) ?? [];
  assert.deepEqual(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"], text);
});
