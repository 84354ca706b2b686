/** What every call answers in every state: as docs/errors.md says, and as runc's shim does where that says anything. */
import assert from "node:assert/strict";
import { chmodSync, copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Status } from "../../../src/base/errors.ts";
import type { Task as TaskV2 } from "../../../src/gen/containerd/task/v2/task_pb.ts";
import { Task as TaskV3 } from "../../../src/gen/containerd/task/v3/task_pb.ts";
import { Status as TaskStatus } from "../../../src/gen/containerd/v1/types/task_pb.ts";
import type { OciProcess } from "../../../src/oci/spec.ts";
import { statusOf } from "../../../src/ttrpc/index.ts";
import { built, repositoryRoot } from "../../harness/paths.ts";
import { runOk } from "../../harness/run.ts";
import { createWorld, type World } from "../../harness/world.ts";
import { containerMatrix, execMatrix, type Matrix, MatrixPod, processSpec } from "./call-matrix.ts";

let world: World;
let ours: MatrixPod;
let control: MatrixPod;
before(async () => {
  world = await createWorld();
  ours = await MatrixPod.start(world, "ours");
  control = await MatrixPod.start(world, "runc", { program: "/usr/bin/containerd-shim-runc-v2" });
});
after(async () => {
  await ours?.[Symbol.asyncDispose]();
  await control?.[Symbol.asyncDispose]();
  await world[Symbol.asyncDispose]();
});

/** runc's shim gives what has no code of its own the code Unknown, which our client reads as Internal. */
const NO_CODE = ["Internal", "Unknown"];
/** "call state" where the answer is meant to be another than runc's. */
const differences = new Map([
  ["Exec created", "a process can only be added to what runs"],
  ["ResizePty stopped", "who resizes a terminal that has just gone is not told off"],
]);

/** The table below the heading `title` of docs/errors.md, as "call state" → cell. */
function documented(title: string): Map<string, string> {
  const text = readFileSync(join(repositoryRoot, "docs/errors.md"), "utf8");
  const section = text.slice(text.indexOf(`### ${title}`)).split("\n### ")[0] ?? "";
  const rows = section.split("\n").filter((line) => line.startsWith("|"));
  const cells = rows.map((row) =>
    row
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
  const [states = [], _line, ...calls] = cells;
  const entries = calls.flatMap(([call = "", ...row]) =>
    row.map((cell, index): [string, string] => [`${call} ${states[index + 1]}`, cell]),
  );
  return new Map(entries);
}

const codes = (matrix: Matrix) =>
  new Map(
    Object.entries(matrix).flatMap(([call, row]) =>
      Object.entries(row).map(([state, { code }]): [string, string] => [`${call} ${state}`, code]),
    ),
  );

/** @returns what was answered. */
function assertDocumented(title: string, matrix: Matrix): Map<string, string> {
  const expected = documented(title);
  assert.ok(expected.size > Object.keys(matrix).length, `docs/errors.md has no table "${title}"`);
  const found = codes(matrix);
  for (const [cell, code] of expected) assert.equal(found.get(cell) ?? "–", code, `${title}: ${cell}`);
  assert.deepEqual(
    [...found.keys()].filter((cell) => !expected.has(cell)),
    [],
    "not in docs/errors.md",
  );
  return found;
}

async function compare(title: string, play: (pod: MatrixPod) => Promise<Matrix>) {
  const [own, runc] = [await play(ours), await play(control)];
  const found = assertDocumented(title, own);
  for (const [cell, theirs] of codes(runc)) {
    if (differences.has(cell)) continue;
    const mine = found.get(cell) ?? "";
    if (NO_CODE.includes(theirs))
      assert.ok(!["ok", "waits", ...NO_CODE].includes(mine), `${cell}: runc refuses it, we ${mine}`);
    else assert.equal(mine, theirs, `${cell}: runc's shim answers ${theirs}`);
  }
}

test("calls on a container answer by its state as documented and as runc's shim does", async () => {
  await compare("Calls on a container", containerMatrix);
});

test("calls on an exec answer by its state as documented and as runc's shim does", async () => {
  await compare("Calls on an exec", execMatrix);
});

/** Whether Connect tells the processes that stand for the shim and the task. */
async function connects(pod: MatrixPod): Promise<void> {
  const { shimPid, taskPid } = await pod.task.connect({ id: pod.shim.id });
  const name = async (pid: number) => (await runOk(world.enter(["cat", `/proc/${pid}/comm`]))).stdout.trim();
  assert.deepEqual([await name(shimPid), await name(taskPid)], ["caisson-shim", "qemu-system-x86"]);
}

test("every call of version 3 of the service answers as documented too", async () => {
  // Its messages are those of version 2 (test/golden/proto-descriptor.txt); the name on the wire is not.
  await using third = await MatrixPod.start(world, "third", { service: TaskV3 as unknown as typeof TaskV2 });
  assertDocumented("Calls on a container", await containerMatrix(third));
  assertDocumented("Calls on an exec", await execMatrix(third));
  await connects(third);
  await connects(ours);
});

const rejection = async (call: Promise<unknown>): Promise<string> => {
  try {
    await call;
  } catch (error) {
    return (error as Error).message;
  }
  return "(not refused)";
};

test("refusals have the words that clients of runc's shim look for", async () => {
  for (const pod of [ours, control]) {
    const running = await pod.inState("running");
    const stopped = await pod.inState("stopped");
    const { task } = pod;
    assert.match(await rejection(task.delete({ id: running })), /cannot delete a running process/);
    assert.match(await rejection(task.start({ id: running })), /cannot start a running process/);
    assert.match(await rejection(task.start({ id: stopped })), /cannot start a stopped process/);
    assert.match(await rejection(task.kill({ id: stopped, signal: 15 })), /process already finished/);
    assert.match(
      await rejection(task.exec({ id: stopped, execId: "late", spec: processSpec(["true"]) })),
      /cannot exec in a stopped state/,
    );
  }
});

/** Milliseconds that a call took. */
async function durationOf(call: Promise<unknown>): Promise<number> {
  const started = performance.now();
  await call;
  return performance.now() - started;
}

interface Refusal {
  readonly name: string;
  readonly args: readonly string[];
  readonly changes?: OciProcess;
  readonly reason: RegExp;
}

const refusals: readonly Refusal[] = [
  {
    name: "no such path",
    args: ["/no/such/program"],
    reason: /"\/no\/such\/program": stat \/no\/such\/program: no such file or directory/,
  },
  { name: "no such name", args: ["nonesuch"], reason: /"nonesuch": executable file not found in \$PATH/ },
  { name: "a directory", args: ["/tmp"], reason: /"\/tmp": (is a directory|permission denied)/ },
  { name: "a plain file", args: ["/etc/passwd"], reason: /"\/etc\/passwd": permission denied/ },
  {
    name: "a program of root's alone",
    args: ["/root/tool"],
    changes: { user: { uid: 1000, gid: 1000 }, capabilities: { bounding: [] } },
    reason: /"\/root\/tool": (stat \/root\/tool: )?permission denied/,
  },
  {
    name: "a user that cannot be",
    args: ["true"],
    changes: { user: { uid: 4_294_967_295, gid: 0 } },
    reason: /uids and gids must be in range 0-2147483647/,
  },
  {
    name: "no such directory to work in",
    args: ["true"],
    changes: { cwd: "/etc/passwd/x" },
    reason: /chdir to cwd \("\/etc\/passwd\/x"\).*not a directory/,
  },
];

test("what cannot be executed is refused as soon as a good start is answered, with runc's reason", async () => {
  const root = join(world.dir, "busybox-root/root");
  copyFileSync(built.busybox, join(root, "tool"));
  for (const path of [root, join(root, "tool")]) chmodSync(path, 0o700);
  for (const pod of [ours, control]) {
    const id = await pod.inState("running");
    await pod.task.exec({ id, execId: "good", spec: processSpec(["true"]) });
    const good = await durationOf(pod.task.start({ id, execId: "good" }));
    for (const { name, args, changes, reason } of refusals) {
      const execId = `x-${name.replaceAll(" ", "-").replaceAll("'", "")}`;
      await pod.task.exec({ id, execId, spec: processSpec(args, changes) });
      let words = "";
      const took = await durationOf(
        rejection(pod.task.start({ id, execId })).then((message) => {
          words = message;
        }),
      );
      assert.match(words, reason, name);
      // A second on a machine with nothing else to do.
      assert.ok(took < 1_000 + 5 * good, `${name}: ${took} ms, a good start ${good} ms`);
      await pod.task.delete({ id, execId });
      if (changes !== undefined) continue;
      const container = pod.newId();
      // runc finds out when it creates the container, we when its process is started.
      const begin = async () => {
        await pod.create(container, args);
        await pod.task.start({ id: container });
      };
      assert.match(await rejection(begin()), reason, name);
      await pod.task.delete({ id: container }).catch(() => undefined);
    }
  }
});

test("Checkpoint, and a Create that restores, are not offered in any state", async () => {
  const unimplemented = (call: Promise<unknown>) =>
    assert.rejects(call, (error: Error) => statusOf(error).code === Status.Unimplemented);
  const id = await ours.inState("running");
  await unimplemented(ours.task.checkpoint({ id, path: "/tmp/image" }));
  await unimplemented(ours.task.checkpoint({ id: "absent" }));
  await unimplemented(
    ours.task.create({ id: ours.newId(), bundle: ours.shim.bundle, checkpoint: "/tmp/image" }),
  );
  assert.equal((await ours.task.state({ id })).status, TaskStatus.RUNNING);
});
