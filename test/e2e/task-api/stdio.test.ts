/** Where a container's output may go besides a client that reads: files, logging binaries, a reader that comes later. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describeResult } from "../../harness/run.ts";
import { type TestHost, withTestHost } from "../../harness/test-host.ts";

const { ledgeredTest } = withTestHost();

/** Runs `argv` with its output going to `uri`, to its end; returns its exit code. */
async function runLogged(host: TestHost, uri: string, argv: readonly string[]): Promise<string> {
  const id = host.newId();
  const flags = ["--detach", "--log-uri", uri];
  await host.containerd.ctrOk(host.runArguments(argv, { id, keep: true, flags }));
  await waitForStop(host, id);
  const removed = await host.containerd.ctr(["task", "delete", id]);
  await host.containerd.ctrOk(["container", "delete", id]);
  return removed.stderr;
}

async function waitForStop(host: TestHost, id: string): Promise<void> {
  const deadline = performance.now() + 15_000;
  for (;;) {
    const { stdout } = await host.containerd.ctrOk(["task", "list"]);
    if (new RegExp(`^${id}\\s.*STOPPED`, "m").test(stdout)) return;
    if (performance.now() > deadline) throw new Error(`${id} still runs:\n${stdout}`);
    await sleep(100);
  }
}

ledgeredTest("a log file gets both streams, appended", async (host) => {
  const file = join(host.world.dir, "logs/container.log");
  assert.match(
    await runLogged(host, `file://${file}`, ["sh", "-c", "echo out; echo err >&2; exit 3"]),
    /code 3/,
  );
  await runLogged(host, `file://${file}`, ["echo", "again"]);
  assert.deepEqual(readFileSync(file, "utf8").split("\n").sort(), ["", "again", "err", "out"]);
});

ledgeredTest("a logging binary gets both streams, its arguments and the container's name", async (host) => {
  const { dir, name } = host.world;
  const logger = join(dir, "logger");
  const body = `exec 5>&-; cat <&3 >${dir}/out & cat <&4 >${dir}/err & wait; sleep 0.2; echo "$CONTAINER_NAMESPACE $CONTAINER_ID $1 $2" >${dir}/end`;
  writeFileSync(logger, `#!/bin/sh\n${body}\n`, { mode: 0o755 });
  const script = "head -c 1000000 /dev/zero; echo err >&2; exit 4";
  assert.match(await runLogged(host, `binary://${logger}?tag=x`, ["sh", "-c", script]), /code 4/);
  assert.equal(readFileSync(`${dir}/out`).length, 1_000_000);
  assert.equal(readFileSync(`${dir}/err`, "utf8"), "err\n");
  assert.match(readFileSync(`${dir}/end`, "utf8"), new RegExp(`^${name} c\\d+ tag x\n$`));
});

ledgeredTest(
  "a logging binary that cannot start refuses the container, one that dies does not hurt it",
  async (host) => {
    const { dir } = host.world;
    const failing = join(dir, "failing");
    writeFileSync(failing, "#!/bin/sh\necho no disk >&2; exit 1\n", { mode: 0o755 });
    const flags = ["--detach", "--log-uri", `binary://${failing}`];
    const refused = await host.containerd.ctr(
      host.runArguments(["true"], { id: "refused", keep: true, flags }),
    );
    assert.notEqual(refused.code, 0);
    assert.match(refused.stderr, /logging binary .*no disk/, describeResult(refused));
    if ((await host.containerd.ctr(["container", "info", "refused"])).code === 0) {
      await host.containerd.ctrOk(["container", "delete", "refused"]);
    }
    const dying = join(dir, "dying");
    writeFileSync(dying, "#!/bin/sh\nexec 5>&-; head -c 1 <&3 >/dev/null\n", { mode: 0o755 });
    const script = "echo first; sleep 0.5; head -c 1000000 /dev/zero; exit 6";
    assert.match(await runLogged(host, `binary://${dying}`, ["sh", "-c", script]), /code 6/);
  },
);

ledgeredTest("a client that closes its ends when it hears of the exit has all output", async (host) => {
  // So does containerd's own client before 1.6.22 and 1.7.3: what it has not read by then is lost.
  const script = "head -c 1000000 /dev/zero | tr '\\0' x; echo err >&2; exit 7";
  const lengths: string[] = [];
  for (let i = 0; i < 5; i++) {
    const { code, stdout, stderr } = await host.containerd.ctr(host.runArguments(["sh", "-c", script]));
    lengths.push(`${code}: ${stdout.length} and ${stderr.length}`);
  }
  assert.deepEqual(new Set(lengths), new Set(["7: 1000000 and 4"]));
});

ledgeredTest("output without a reader waits for one, during and after the container's life", async (host) => {
  const id = host.newId();
  // Detached with pipes: ctr, their reader, goes at once.
  const script = "echo one; while ! test -e /go; do sleep 0.1; done; echo two; exit 8";
  await host.containerd.ctrOk(
    host.runArguments(["sh", "-c", script], { id, keep: true, flags: ["--detach"] }),
  );
  // Not before this exec has ended: it would be killed with the container.
  const signal = "{ sleep 0.5; touch /go; } </dev/null >/dev/null 2>&1 &";
  assert.equal((await host.exec(id, ["sh", "-c", signal])).code, 0);
  await waitForStop(host, id);
  const attached = await host.containerd.ctr(["task", "attach", id]);
  assert.deepEqual([attached.stdout, attached.code], ["one\ntwo\n", 8], describeResult(attached));
  await host.containerd.ctrOk(["container", "delete", id]);
  assert.ok(!existsSync(join(host.containerd.bundles, id)));
});
