import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Status } from "../../../src/base/errors.ts";
import { StreamKind } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { TtrpcError } from "../../../src/ttrpc/index.ts";
import { useWorld } from "./world.ts";

const world = useWorld();
const cgroupOf = (id: string) => join(world().cgroup, "caisson", id);
/** google.rpc.Code as it crossed the wire. */
const isNotFound = (error: unknown) => error instanceof TtrpcError && error.remoteCode === Status.NotFound;

/** What the agent itself holds: descriptors and children. */
function agentLedger(): { fds: number; mounts: number } {
  const pid = readdirSync(`/proc/${world().agent.child.pid}/task/${world().agent.child.pid}`).includes(
    "children",
  )
    ? readFileSync(`/proc/${world().agent.child.pid}/task/${world().agent.child.pid}/children`, "utf8").trim()
    : "";
  return {
    fds: readdirSync(`/proc/${pid}/fd`).length,
    mounts: readFileSync(`/proc/${pid}/mountinfo`, "utf8").split("\n").length,
  };
}

test("create and start are two steps", async () => {
  const id = await world().create(["echo", "ran"]);
  const stream = await world().open(id, "", StreamKind.STDOUT);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.equal(world().hasExited(id), false);
  assert.ok(await world().start(id));
  let text = "";
  for await (const chunk of stream.readable) text += Buffer.from(chunk).toString();
  assert.equal(text, "ran\n");
  await world().exit(id);
  await world().delete(id);
});

test("the pid of create is that of start and of the list", async () => {
  const id = await world().create(["sleep", "1000"]);
  const pid = await world().start(id);
  const execId = await world().exec(id, ["sleep", "999"]);
  const { processes } = await world().agent.calls.listProcesses({ containerId: id });
  assert.deepEqual(
    processes.map(({ command, execId: of }) => [command, of]),
    [
      ["sleep 1000", ""],
      ["sleep 999", execId],
    ],
  );
  assert.equal(processes[0]?.pid, pid);
  await world().delete(id);
});

test("long and garbled command lines are told as far as the host keeps them", async () => {
  const script = `for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done
for i in 1 2 3; do sh -c 'sleep 1000; true' "$(printf '\\355\\240\\200 %0100000d' 0)" & done; wait`;
  const id = await world().create(["sh", "-c", script, "x".repeat(120_000), "y".repeat(120_000)]);
  await world().start(id);
  const list = async () => (await world().agent.calls.listProcesses({ containerId: id })).processes;
  const deadline = performance.now() + 10_000;
  while ((await list()).filter(({ command }) => command.startsWith("sleep")).length < 15) {
    assert.ok(performance.now() < deadline);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const processes = await list();
  assert.ok(processes.length >= 19, String(processes.length));
  assert.ok(processes.every(({ command }) => command.length <= 4_096));
  assert.equal(processes.filter(({ command }) => command.length === 4_096).length, 4);
  await world().delete(id);
});

test("a start that fails with a text of control characters fails with it, at once, and leaves nothing", async () => {
  const id = await world().create(["\u0001".repeat(6_000)]);
  await assert.rejects(world().start(id), (error) => String(error).includes("\u0001\u0001"));
  await world().delete(id);
});

test("a process gets as long to begin as its caller waits, and what hinders it is told in time", async () => {
  const { calls } = world().agent;
  const id = await world().create(["true"]);
  const { processes } = await calls.listProcesses({ containerId: id });
  const init = processes[0]?.pid ?? 0;
  // As the agent numbers it, in its own pid namespace.
  execFileSync("nsenter", [
    "-t",
    String(world().agent.pid),
    "--pid",
    "--mount",
    "kill",
    "-STOP",
    String(init),
  ]);
  const started = calls.startProcess({ containerId: id, execId: "" }, { timeoutMs: 1_200 });
  await assert.rejects(started, /the start of .* took longer than (9\d\d|1000) ms/);
  await world().delete(id);
});

test("an id is taken until its container is deleted", async () => {
  const id = await world().sleeper();
  await assert.rejects(world().create(["true"], undefined, {}, id), /exists already/);
  await world().delete(id);
  await world().create(["true"], undefined, {}, id);
  await world().delete(id);
});

test("ids that are no file names are refused", async () => {
  for (const id of ["..", "a/b", "", "-x"]) {
    await assert.rejects(
      world().agent.calls.createContainer({ containerId: id, specJson: Buffer.from("{}"), rootfsPath: "/" }),
      /is not a valid container id/,
    );
  }
});

test("a container that was never started can be killed and deleted", async () => {
  const id = await world().create(["true"]);
  await world().kill(id, 15);
  assert.equal(await world().exit(id), 137);
  await world().delete(id);
  const other = await world().create(["true"]);
  await world().agent.calls.deleteProcess({ containerId: other, execId: "" });
  assert.equal(existsSync(cgroupOf(other)), false);
});

test("a running container cannot be deleted or started again", async () => {
  const id = await world().sleeper();
  await assert.rejects(world().agent.calls.deleteProcess({ containerId: id, execId: "" }), /it is running/);
  await assert.rejects(world().start(id), /it is running/);
  await world().delete(id);
});

test("a kill after the exit is NotFound", async () => {
  const id = await world().create(["true"]);
  await world().start(id);
  await world().exit(id);
  await assert.rejects(world().kill(id, 9), (error) => {
    assert.match(String(error), /process has already finished/);
    return isNotFound(error);
  });
  await world().delete(id);
});

test("kill all reaches every process", async () => {
  // The first process stays a little: its end kills the others, which would then not end by the signal.
  const script = "trap 'sleep 0.3; exit 4' TERM; touch /tmp/trapped; sleep 1000 & wait";
  const id = await world().create(["sh", "-c", script]);
  await world().start(id);
  // The first process of a pid namespace is not hurt by signals that it does not handle.
  const trapped = await world().exec(id, ["sh", "-c", "until [ -e /tmp/trapped ]; do sleep 0.02; done"]);
  assert.equal(await world().exit(id, trapped), 0);
  const execId = await world().exec(id, ["sleep", "1000"]);
  await world().kill(id, 15, "", true);
  assert.equal(await world().exit(id, execId), 143);
  assert.equal(await world().exit(id), 4);
  await world().delete(id);
});

test("an unknown signal is refused", async () => {
  const id = await world().sleeper();
  await assert.rejects(world().kill(id, 99), /cannot send signal 99/);
  await world().delete(id);
});

test("everything is released: cgroup, descriptors, mounts", async () => {
  await world().sh("true");
  const before = agentLedger();
  for (let n = 0; n < 10; n++) await world().sh("true");
  await assert.rejects(
    world().create(["true"], (spec) => void spec.mounts.push({ destination: "/x", type: "none" })),
  );
  await assert.rejects(world().create(["true"], (spec) => Object.assign(spec.process, { cwd: 5 })));
  assert.deepEqual(agentLedger(), before);
  assert.deepEqual(
    readdirSync(join(world().cgroup, "caisson"), { withFileTypes: true }).filter((entry) =>
      entry.isDirectory(),
    ),
    [],
  );
  assert.equal((await world().agent.calls.guestInfo({})).containerCount, 0);
});

test("cgroups that a container made below its own go with it", async () => {
  const id = await world().sleeper((spec) => {
    for (const mount of spec.mounts)
      if (mount.type === "cgroup") mount.options = ["nosuid", "noexec", "nodev"];
  });
  await world().execSh(id, "mkdir -p /sys/fs/cgroup/a/b");
  assert.ok(existsSync(join(cgroupOf(id), "a/b")));
  await world().delete(id);
  assert.equal(existsSync(cgroupOf(id)), false);
});

test("pause stops every process and resume lets it go on", async () => {
  const id = await world().create(["sh", "-c", "while :; do echo x; sleep 0.01; done"]);
  await world().start(id);
  const stream = await world().open(id, "", StreamKind.STDOUT);
  let bytes = 0;
  const pump = (async () => {
    for await (const chunk of stream.readable) bytes += chunk.length;
  })();
  const grows = async () => {
    await new Promise((resolve) => setTimeout(resolve, 50));
    const before = bytes;
    await new Promise((resolve) => setTimeout(resolve, 150));
    return bytes > before;
  };
  assert.equal(await grows(), true);
  await world().agent.calls.pauseContainer({ containerId: id });
  assert.equal(await grows(), false);
  await assert.rejects(world().exec(id, ["true"]), /is paused/);
  await world().agent.calls.resumeContainer({ containerId: id });
  assert.equal(await grows(), true);
  await world().agent.calls.pauseContainer({ containerId: id });
  await world().kill(id, 9);
  assert.equal(await world().exit(id), 137, "a paused container can be killed");
  await pump;
  await world().delete(id);
});

test("stats are those of the cgroup and of the pod's interfaces", async () => {
  const id = await world().create(["sh", "-c", "while :; do :; done"]);
  await world().start(id);
  const deadline = performance.now() + 10_000;
  let stats = await world().agent.calls.containerStats({ containerId: id });
  while ((stats.cpu?.usageUsec ?? 0n) < 50_000n) {
    assert.ok(performance.now() < deadline, `${stats.cpu?.usageUsec} us in 10 s`);
    await new Promise((resolve) => setTimeout(resolve, 50));
    stats = await world().agent.calls.containerStats({ containerId: id });
  }
  assert.deepEqual(
    stats.interfaces.map(({ name }) => name),
    ["lo"],
  );
  await world().delete(id);
});

test("a limit that the kernel cannot keep is refused by name", async () => {
  await assert.rejects(
    world().create(["true"], (spec) => {
      spec.linux.resources = { unified: { "nonesuch.max": "1" } };
    }),
    /cannot set nonesuch\.max to "1": the guest's kernel does not have it/,
  );
});

test("calls about a container that does not exist are NotFound", async () => {
  const { calls } = world().agent;
  const refused = [
    calls.startProcess({ containerId: "none" }),
    calls.signalProcess({ containerId: "none", signal: 9 }),
    calls.deleteProcess({ containerId: "none" }),
    calls.containerStats({ containerId: "none" }),
    calls.listProcesses({ containerId: "none" }),
    calls.pauseContainer({ containerId: "none" }),
    calls.updateContainer({ containerId: "none", resourcesJson: Buffer.from("{}") }),
  ];
  // All at once: a rejection that waits for its turn would count as unhandled.
  await Promise.all(refused.map((call) => assert.rejects(call, isNotFound)));
});

test("ten containers at once run and leave", async () => {
  const results = await Promise.all(Array.from({ length: 10 }, (_, n) => world().sh(`echo ${n}; exit ${n}`)));
  results.forEach(({ stdout, status }, n) => {
    assert.deepEqual([stdout, status], [`${n}\n`, n]);
  });
});
