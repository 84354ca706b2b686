import assert from "node:assert/strict";
import { test } from "node:test";
import { withDeadline } from "../../../src/base/deadline.ts";
import { StreamKind } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import type { FramedStream } from "../../../src/streams/index.ts";
import { useWorld } from "./world.ts";

const world = useWorld();

/** Collects what a terminal shows. */
class Screen {
  text = "";
  readonly done: Promise<void>;
  #changed: () => void = () => undefined;

  constructor(stream: FramedStream) {
    this.done = (async () => {
      for await (const chunk of stream.readable) {
        this.text += Buffer.from(chunk).toString();
        this.#changed();
      }
    })();
  }

  async shows(pattern: RegExp): Promise<void> {
    const shown = async () => {
      while (!pattern.test(this.text)) {
        await new Promise<void>((resolve) => {
          this.#changed = resolve;
        });
      }
    };
    await withDeadline(shown(), 5_000, `waiting for ${pattern}`).catch((error: unknown) => {
      throw new Error(`${String(error)}; the screen has ${JSON.stringify(this.text)}`);
    });
  }
}

const INSPECT =
  "tty; stty size; stat -c %t:%T /dev/console; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo three; ps -o tty | tail -1; : > /dev/tty && echo controlling";

test("a first process gets a terminal of its container's devpts, with the size of the spec", async () => {
  const id = await world().create(
    ["sh", "-c", INSPECT],
    (spec) => {
      spec.process.consoleSize = { height: 33, width: 111 };
    },
    { terminal: true },
  );
  await world().start(id);
  const output = await world().readAll(id, "", StreamKind.STDOUT);
  assert.match(output, /^\/dev\/pts\/0\r\n33 111\r\n88:0\r\nthree\r\n/);
  assert.match(output, /controlling\r\n$/);
  assert.equal(await world().exit(id), 0);
  await world().delete(id);
});

test("a terminal echoes, takes input, follows a resize and sends signals", async () => {
  const script = "read x; stty size; trap : INT; echo ready; cat; echo after:$?; exit 5";
  const id = await world().create(["sh", "-c", script], undefined, { terminal: true, stdin: true });
  await world().start(id);
  const screen = new Screen(await world().open(id, "", StreamKind.STDOUT));
  const input = await world().open(id, "", StreamKind.STDIN);
  await world().agent.calls.resizeTerminal({ containerId: id, columns: 99, rows: 44 });
  await input.send(Buffer.from("typed\r"));
  await screen.shows(/^typed\r\n44 99\r\nready\r\n$/);
  await input.send(Buffer.from("line\r"));
  await screen.shows(/line\r\nline\r\n$/);
  await input.send(Buffer.from("\x03"));
  // 128 + SIGINT.
  await screen.shows(/\^Cafter:130\r\n$/);
  assert.equal(await world().exit(id), 5);
  await world().delete(id);
});

test("an exec gets a terminal of its own", async () => {
  const id = await world().sleeper();
  const execId = await world().exec(
    id,
    ["sh", "-c", INSPECT],
    (process) => {
      process.consoleSize = { height: 20, width: 70 };
      process.user = { uid: 1000, gid: 1000 };
    },
    { terminal: true },
  );
  const output = await world().readAll(id, execId, StreamKind.STDOUT);
  assert.match(output, /^\/dev\/pts\/0\r\n20 70\r\n/);
  assert.match(output, /three\r\n/);
  assert.match(output, /controlling\r\n$/);
  assert.equal(await world().exit(id, execId), 0);
  await world().delete(id);
});

test("a size asked for before the exec starts is the one it starts with", async () => {
  const id = await world().sleeper();
  const execId = world().newId();
  const process = { ...world().spec(["stty", "size"]).process };
  await world().agent.calls.createExec({
    containerId: id,
    execId,
    processJson: Buffer.from(JSON.stringify(process)),
    stdio: { terminal: true, stdin: false, stdout: true, stderr: false },
  });
  await world().agent.calls.resizeTerminal({ containerId: id, execId, columns: 123, rows: 45 });
  await world().start(id, execId);
  assert.equal(await world().readAll(id, execId, StreamKind.STDOUT), "45 123\r\n");
  await world().delete(id);
});

test("a resize of a process without a terminal is refused", async () => {
  const id = await world().sleeper();
  await assert.rejects(
    world().agent.calls.resizeTerminal({ containerId: id, columns: 1, rows: 1 }),
    /has no terminal/,
  );
  await world().delete(id);
});

test("a terminal in a container without devpts fails with the reason", async () => {
  await assert.rejects(
    world().create(
      ["true"],
      (spec) => {
        spec.mounts = spec.mounts.filter(({ type }) => type !== "devpts");
      },
      { terminal: true },
    ),
    /is devpts mounted at \/dev\/pts\?/,
  );
});

test("hanging up ends the session", async () => {
  const id = await world().create(["sleep", "1000"], undefined, { terminal: true });
  await world().start(id);
  await world().kill(id, 9);
  assert.equal(await world().exit(id), 137);
  assert.equal(await world().readAll(id, "", StreamKind.STDOUT), "");
  await world().delete(id);
});
