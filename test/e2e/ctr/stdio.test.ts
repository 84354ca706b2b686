/** Standard streams: end of file, size, back-pressure, terminals. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { closeSync, constants, openSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { onTerminal, TERMINAL_SIZE } from "../../harness/on-terminal.ts";
import { describeResult, inputOnceStarted } from "../../harness/run.ts";
import { type TestHost, withTestHost } from "../../harness/test-host.ts";

const { ledgeredTest } = withTestHost();

const MIB = 1024 * 1024;

ledgeredTest("stdin reaches the process and its end of file ends it", async (host) => {
  const stdin = inputOnceStarted("one\ntwo\n");
  const result = await host.run(["sh", "-c", "cat; echo rest=$?"], stdin);
  assert.deepEqual([stdin.output(), result.code], ["one\ntwo\nrest=0\n", 0], describeResult(result));
});

ledgeredTest("an empty stdin is at its end as soon as the client says so", async (host) => {
  const stdin = inputOnceStarted("");
  const result = await host.run(["sh", "-c", "echo started; wc -c"], stdin);
  assert.deepEqual([stdin.output(), result.code], ["started\n0\n", 0], describeResult(result));
});

ledgeredTest("8 MB through stdin and back are the same bytes", async (host) => {
  const bytes = randomBytes(8 * MIB);
  const hash = createHash("sha256");
  let size = 0;
  const onStdout = (chunk: Buffer) => {
    hash.update(chunk);
    size += chunk.length;
  };
  const result = await host.run(["cat"], { input: Readable.from([bytes]), onStdout, timeoutMs: 120_000 });
  assert.deepEqual([result.code, size], [0, bytes.length], describeResult(result));
  assert.equal(hash.digest("hex"), createHash("sha256").update(bytes).digest("hex"));
});

ledgeredTest("100 MB through stdout are the same bytes", async (host) => {
  const bytes = randomBytes(100 * MIB);
  const path = join(host.world.dir, "big");
  writeFileSync(path, bytes);
  const hash = createHash("sha256");
  let size = 0;
  const onStdout = (chunk: Buffer) => {
    hash.update(chunk);
    size += chunk.length;
  };
  const flags = ["--mount", `type=bind,src=${path},dst=/big,options=rbind:ro`];
  const result = await host.run(["cat", "/big"], { flags, onStdout, timeoutMs: 180_000 });
  assert.deepEqual([result.code, size], [0, bytes.length], describeResult(result));
  assert.equal(hash.digest("hex"), createHash("sha256").update(bytes).digest("hex"));
});

ledgeredTest("output that comes last, right before the exit, is not lost", async (host) => {
  const result = await host.run(["sh", "-c", "seq 1 20000; echo end >&2"]);
  const expected = Array.from({ length: 20_000 }, (_, i) => `${i + 1}\n`).join("");
  assert.equal(result.stdout, expected);
  assert.equal(result.stderr, "end\n");
});

/** The FIFO of a stream of a container that `ctr run --detach` made. */
function fifoPath(host: TestHost, id: string, stream: "stdout" | "stderr"): string {
  const root = host.world.outside("/run/containerd/fifo");
  const found = readdirSync(root, { recursive: true }).find((name) =>
    String(name).endsWith(`/${id}-${stream}`),
  );
  if (found === undefined) throw new Error(`no FIFO for ${stream} of ${id} below ${root}`);
  return join(root, String(found));
}

ledgeredTest("a reader that reads nothing does not stop kill and delete", async (host) => {
  const id = host.newId();
  const flags = { id, keep: true, flags: ["--detach"] };
  await host.containerd.ctrOk(host.runArguments(["sh", "-c", "yes"], flags));
  const fd = openSync(fifoPath(host, id, "stdout"), constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    // Long enough for every buffer on the way to fill.
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    const kill = await host.containerd.ctrOk(["task", "kill", "--signal", "SIGKILL", id]);
    assert.ok(kill.durationMs < 3_000, describeResult(kill));
    await host.waitUntilStopped(id);
    const removed = await host.containerd.ctr(["task", "delete", id], { timeoutMs: 15_000 });
    assert.match(removed.stderr, /exit code 137/, describeResult(removed));
  } finally {
    closeSync(fd);
  }
  await host.containerd.ctrOk(["container", "delete", id]);
});

ledgeredTest("a process without any reader can be killed and deleted", async (host) => {
  const id = host.newId();
  await host.containerd.ctrOk(host.runArguments(["yes"], { id, keep: true, flags: ["--detach"] }));
  await host.containerd.ctrOk(["task", "kill", "--signal", "SIGKILL", id]);
  await host.waitUntilStopped(id);
  const removed = await host.containerd.ctr(["task", "delete", id], { timeoutMs: 15_000 });
  assert.match(removed.stderr, /exit code 137/, describeResult(removed));
  await host.containerd.ctrOk(["container", "delete", id]);
});

ledgeredTest("run -t gives the process a terminal of the caller's size", async (host) => {
  const script = `tty; test -t 0 && test -t 1 && test -t 2 && echo yes; ${TERMINAL_SIZE}; exit 3`;
  const result = await onTerminal(host, host.runArguments(["sh", "-c", script], { flags: ["--tty"] }));
  assert.match(result.stdout, /^\/dev\/pts\/0\nyes\n33 99\n/, describeResult(result));
  assert.equal(result.code, 3, describeResult(result));
});

ledgeredTest("exec -t gives a terminal of its own to a process of a container without one", async (host) => {
  const id = await host.runDetached(["sleep", "1000"]);
  const script = "test -t 0 && test -t 1 && echo yes; exit 4";
  const result = await onTerminal(host, ["task", "exec", "--tty", "--exec-id", "x", id, "sh", "-c", script]);
  assert.match(result.stdout, /^yes\n/, describeResult(result));
  assert.equal(result.code, 4, describeResult(result));
  await host.remove(id);
});
