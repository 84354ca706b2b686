/** The debug console of the real agent, as a process in namespaces of its own, with the machine's static busybox. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type ConsoleCommand,
  type ConsoleSession,
  leaseTools,
  openConsole,
} from "../../../src/operator/console-client.ts";
import { built } from "../../harness/paths.ts";
import { ContainerWorld } from "../guest-agent-container/container-world.ts";

const busybox = readFileSync(built.busybox);
/** How long the tools stay here after the last session; 10 s in a guest. */
const KEPT_MS = 1_000;
let world: ContainerWorld;
let toolsDir: string;
const dial = () => world.agent.dial(1026);

before(async () => {
  toolsDir = join(mkdtempSync(join(tmpdir(), "caisson-tools-")), "tools");
  process.env.CAISSON_TOOLS_DIR = toolsDir;
  process.env.CAISSON_TOOLS_KEEP_MS = String(KEPT_MS);
  world = await ContainerWorld.start();
});
after(async () => {
  await world[Symbol.asyncDispose]();
  rmSync(join(toolsDir, ".."), { recursive: true, force: true });
});

const command = (argv: readonly string[], more: Partial<ConsoleCommand> = {}): ConsoleCommand => ({
  argv,
  env: [],
  containerId: "",
  terminal: undefined,
  client: "test",
  ...more,
});

async function text(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts).toString();
}

async function finish(session: ConsoleSession) {
  const [stdout, stderr, status] = await Promise.all([
    text(session.stdout),
    text(session.stderr),
    session.exited,
  ]);
  return { stdout, stderr, status };
}

/** Runs a shell command with the tools there and its input at an end. */
async function sh(script: string, more: Partial<ConsoleCommand> = {}) {
  const lease = await leaseTools(dial, busybox);
  try {
    const session = await openConsole(dial, command(["busybox", "sh", "-c", script], more));
    await session.endInput();
    return await finish(session);
  } finally {
    lease.release();
  }
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 200 && !condition(); i++) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.ok(condition());
}

test("a command has its stdout, its stderr and its exit status apart", async () => {
  const result = await sh("echo out; echo err >&2; exit 7");
  assert.deepEqual(result, { stdout: "out\n", stderr: "err\n", status: 7 });
});

test("a command that a signal ended has 128 and the signal's number", async () => {
  assert.equal((await sh("kill -9 $$")).status, 137);
});

test("input reaches the command to its end, and large output comes whole", async () => {
  const lease = await leaseTools(dial, busybox);
  const session = await openConsole(dial, command(["busybox", "cat"]));
  const input = Buffer.alloc(3_000_000, "0123456789abcdef");
  const sent = session.write(input).then(() => session.endInput());
  const { stdout, status } = await finish(session);
  await sent;
  lease.release();
  assert.equal(status, 0);
  assert.equal(stdout.length, input.length);
  assert.ok(Buffer.from(stdout).equals(input));
});

test("the tools are sent once for several sessions and are gone a while after the last", async () => {
  await until(() => !existsSync(toolsDir));
  (await leaseTools(dial, busybox)).release();
  const file = join(toolsDir, "busybox");
  const sent = statSync(file).ino;
  const first = await leaseTools(dial, busybox);
  assert.equal(statSync(file).ino, sent);
  assert.ok(readdirSync(join(toolsDir, "bin")).includes("vi"));
  const second = await leaseTools(dial, busybox);
  first.release();
  await sleep(2 * KEPT_MS);
  const { stdout } = await finish(await openConsole(dial, command(["ls", "/proc/self/ns"])));
  assert.match(stdout, /mnt/);
  assert.equal(existsSync(toolsDir), true);
  second.release();
  await until(() => !existsSync(toolsDir));
});

test("sessions that begin at one time have the tools sent once", async () => {
  await until(() => !existsSync(toolsDir));
  let sent = 0;
  const counted = async () => {
    const stream = await dial();
    const write = stream.write.bind(stream);
    return Object.assign(stream, {
      write: (bytes: Uint8Array) => {
        sent += bytes.length;
        return write(bytes);
      },
    });
  };
  const leases = await Promise.all([1, 2, 3, 4].map(() => leaseTools(counted, busybox)));
  for (const lease of leases) lease.release();
  assert.ok(sent >= busybox.length && sent < 1.2 * busybox.length, `${sent} bytes were sent`);
});

test("a terminal has the size it was given, then the new one, and one output", async () => {
  const lease = await leaseTools(dial, busybox);
  const session = await openConsole(
    dial,
    command(["busybox", "sh"], { terminal: { columns: 101, rows: 33 }, env: ["TERM=vt100", "PS1=> "] }),
  );
  const iterator = session.stdout[Symbol.asyncIterator]();
  let seen = "";
  const waitFor = async (what: RegExp) => {
    while (!what.test(seen)) {
      const { value, done } = await iterator.next();
      if (done === true) throw new Error(`the terminal ended with ${JSON.stringify(seen)}`);
      seen += Buffer.from(value).toString();
    }
  };
  await waitFor(/> /);
  await session.write(Buffer.from("stty size; tty\n"));
  await waitFor(/33 101\r\n\/dev\/pts\/\d+/);
  session.resize(90, 20);
  await session.write(Buffer.from("stty size\n"));
  await waitFor(/20 90\r\n/);
  const mark = `2${Date.now()}`;
  await session.write(Buffer.from(`sleep ${mark}\n`));
  await until(() => running(mark));
  await session.write(Buffer.from("\x03"));
  await until(() => !running(mark));
  await session.write(Buffer.from("echo after $?\n"));
  await waitFor(/after 130/);
  await session.write(Buffer.from("exit 5\n"));
  while ((await iterator.next()).done !== true);
  assert.equal(await session.exited, 5);
  lease.release();
});

test("a container's console has its files, its processes and its name, with tools that it lacks", async () => {
  const id = await world.sleeper();
  const inside = await sh("echo $$; cat /etc/passwd | head -1; ps -o comm | head -3", { containerId: id });
  assert.match(inside.stdout, /root:x:0:0:root:\/root/);
  const lease = await leaseTools(dial, busybox);
  rmSync(join(world.dir, id, "bin/ip"), { force: true });
  const { stdout, status } = await finish(
    await openConsole(dial, command(["ip", "link", "show", "lo"], { containerId: id })),
  );
  lease.release();
  await world.delete(id);
  assert.match(stdout, /lo: </);
  assert.equal(status, 0);
});

test("a container that is not there and a program that is not there are told apart", async () => {
  await assert.rejects(openConsole(dial, command(["x"], { containerId: "nobody" })), { code: "ERR_STATE" });
  await assert.rejects(openConsole(dial, command(["/nowhere/x"])), {
    code: "ERR_START_PROCESS",
    message: /no such file or directory/,
  });
});

test("what a command left running is killed when it has ended, and when its client goes", async () => {
  const mark = `1${Date.now()}`;
  const { stdout } = await sh(`sleep ${mark} & echo started`);
  assert.equal(stdout, "started\n");
  await until(() => !running(mark));
  const lease = await leaseTools(dial, busybox);
  const session = await openConsole(dial, command(["sleep", mark]));
  await until(() => running(mark));
  session.close();
  await assert.rejects(session.exited);
  await until(() => !running(mark));
  lease.release();
});

function running(mark: string): boolean {
  return readdirSync("/proc").some((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(`sleep\0${mark}`);
    } catch {
      return false;
    }
  });
}

test("many sessions run at one time", async () => {
  const lease = await leaseTools(dial, busybox);
  const results = await Promise.all(
    Array.from({ length: 12 }, async (_, index) => {
      const session = await openConsole(dial, command(["sh", "-c", `echo ${index}; exit ${index}`]));
      await session.endInput();
      return await finish(session);
    }),
  );
  lease.release();
  for (const [index, { stdout, status }] of results.entries()) {
    assert.equal(stdout, `${index}\n`);
    assert.equal(status, index);
  }
});
