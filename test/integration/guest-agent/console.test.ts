/** The debug console on port 1026: commands in the guest and in a container, with pipes and with a terminal. Needs root. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { withDeadline } from "../../../src/base/deadline.ts";
import { ConsoleOpenSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { FramedStream } from "../../../src/streams/index.ts";
import { useWorld } from "../guest-agent-container/world.ts";

const world = useWorld();
const LIMIT_MS = 10_000;

class Session {
  readonly stream: FramedStream;
  readonly output: Promise<string>;
  text = "";
  readonly #exit: { readonly status?: number };
  #wake: () => void = () => undefined;

  constructor(stream: FramedStream, exit: { readonly status?: number }) {
    this.stream = stream;
    this.#exit = exit;
    this.output = this.#read();
    this.output.catch(() => undefined);
  }

  static async open(open: MessageInitShape<typeof ConsoleOpenSchema>): Promise<Session> {
    const payload = toBinary(ConsoleOpenSchema, create(ConsoleOpenSchema, open));
    const connection = await world().agent.dial(1026);
    const exit: { status?: number } = {};
    const stream = FramedStream.open(connection, payload, {
      keepSending: true,
      // It may come in one piece with the answer to OPEN.
      onExit: (status) => {
        exit.status = status;
      },
    });
    await withDeadline(stream.opened, LIMIT_MS, "the console");
    return new Session(stream, exit);
  }

  /** Resolves when the output so far matches. */
  until(pattern: RegExp): Promise<void> {
    const wait = async () => {
      while (!pattern.test(this.text)) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    };
    return withDeadline(wait(), LIMIT_MS, `output like ${pattern}`);
  }

  /** All output, once the command and the session have ended. */
  async finish(): Promise<{ output: string; status: number | undefined }> {
    await this.stream.sendEof().catch(() => undefined);
    const output = await withDeadline(this.output, LIMIT_MS, "the end of the output");
    assert.equal(await this.stream.closed, undefined);
    return { output, status: this.#exit.status };
  }

  async #read(): Promise<string> {
    for await (const chunk of this.stream.readable) {
      this.text += Buffer.from(chunk).toString();
      this.#wake();
    }
    return this.text;
  }
}

const run = async (open: MessageInitShape<typeof ConsoleOpenSchema>) =>
  await (await Session.open(open)).finish();

test("a command's output and exit status come back", async () => {
  const argv = ["/bin/sh", "-c", "echo out; echo err >&2; exit 7"];
  assert.deepEqual(await run({ argv }), { output: "out\nerr\n", status: 7 });
});

test("a command that a signal ends has status 128 plus its number", async () => {
  assert.equal((await run({ argv: ["/bin/sh", "-c", "kill -9 $$"] })).status, 137);
});

test("input reaches the command, and its end too", async () => {
  const session = await Session.open({ argv: ["/bin/cat"] });
  await session.stream.send(Buffer.from("hello\n"));
  assert.deepEqual(await session.finish(), { output: "hello\n", status: 0 });
});

test("ten megabytes arrive whole before the status", async () => {
  const { output, status } = await run({ argv: ["/bin/sh", "-c", "head -c 10000000 /dev/zero"] });
  assert.deepEqual([output.length, status], [10_000_000, 0]);
});

test("the environment is what was asked for, with a default", async () => {
  const argv = ["/usr/bin/env"];
  assert.match((await run({ argv, env: ["A=1", "B=two words"] })).output, /^A=1\nB=two words\n(HOME=.*\n)?$/);
  assert.match((await run({ argv })).output, /^PATH=\/usr\/local\/sbin:/);
});

test("a terminal has the size asked for, follows a resize and sends signals", async () => {
  const session = await Session.open({ argv: ["/bin/sh"], terminal: true, columns: 100, rows: 33 });
  await session.stream.send(Buffer.from("stty size; tty\n"));
  await session.until(/33 100\r\n\/dev\/pts\/\d+/);
  await session.stream.sendResize(80, 24);
  await session.stream.send(Buffer.from("stty size\n"));
  await session.until(/24 80/);
  // Twice, by the terminal and by cat: it is in the foreground now.
  await session.stream.send(Buffer.from("cat\nready\n"));
  await session.until(/ready[\s\S]*ready/);
  await session.stream.send(Buffer.from("\u0003"));
  // What is typed before the next prompt is dropped.
  await session.until(/\^C\s+# $/);
  await session.stream.send(Buffer.from("echo status=$?\n"));
  await session.until(/status=130/);
  await session.stream.send(Buffer.from("exit 5\n"));
  assert.equal((await session.finish()).status, 5);
});

test("a command that cannot be run is refused with the reason", async () => {
  await assert.rejects(run({ argv: ["/no/such/program"] }), /exec: "\/no\/such\/program": .*no such file/);
});

test("a container that does not run is refused by name", async () => {
  await assert.rejects(run({ argv: ["/bin/sh"], containerId: "nobody" }), /container nobody is not running/);
});

test("in a container, the command sees the container's root, processes and host name", async () => {
  const id = await world().sleeper();
  const script =
    "hostname; cat /proc/1/cmdline | tr '\\0' ' '; ls /bin/busybox; grep -c . /proc/self/mounts > /dev/null";
  const { output, status } = await run({ argv: ["/bin/sh", "-c", script], containerId: id });
  assert.deepEqual([output, status], ["podhost\nsleep 1000 /bin/busybox\n", 0]);
  assert.equal((await run({ argv: ["/bin/sh", "-c", "exit 9"], containerId: id })).status, 9);
  await world().delete(id);
});

test("when the connection ends, so does the command, in a container too", async () => {
  const id = await world().sleeper();
  for (const containerId of ["", id]) {
    const marker = `9${Date.now()}`;
    const session = await Session.open({ argv: ["/bin/sleep", marker], containerId });
    assert.equal(processes(marker).length, 1);
    session.stream.reset("");
    for (let attempt = 0; processes(marker).length > 0; attempt++) {
      assert.ok(attempt < 500, `sleep ${marker} still runs`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
  await world().delete(id);
});

/** Pids of processes with that argument. */
function processes(argument: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").includes(argument);
    } catch {
      return false; // ended meanwhile
    }
  });
}

test("a background process that keeps the output open does not keep the session", async () => {
  const { output, status } = await run({ argv: ["/bin/sh", "-c", "sleep 30 & echo started"] });
  assert.deepEqual([output, status], ["started\n", 0]);
});

test("sessions leave no descriptor and no zombie", async () => {
  const { agent } = world();
  await run({ argv: ["/bin/true"] });
  await agent.calls.guestInfo({});
  const before = agent.openDescriptors;
  await Promise.all(Array.from({ length: 20 }, () => run({ argv: ["/bin/true"] })));
  for (let attempt = 0; agent.openDescriptors > before; attempt++) {
    assert.ok(attempt < 500, `${agent.openDescriptors} descriptors, not ${before}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const children = readFileSync(`/proc/${agent.pid}/task/${agent.pid}/children`, "utf8").trim().split(" ");
  const zombies = children.filter(
    (pid) => pid !== "" && / Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8")),
  );
  assert.deepEqual(zombies, []);
});
