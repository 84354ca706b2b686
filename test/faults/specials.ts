/** Faults that are no process killed at a step of the shim: guests that fail or hang, full disks, absent readers, … */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { FailPoint } from "../../src/base/failpoint.ts";
import { built } from "../harness/paths.ts";
import { describeResult, type RunResult } from "../harness/run.ts";
import { removeCgroups } from "../harness/world.ts";
import { type FaultHost, killQuietly } from "./fault-host.ts";
import { type Outcome, REACH_LIMIT_MS, SHOWN_LIMIT_MS } from "./scenario.ts";
import { recoverySteps } from "./steps.ts";

/** What a special does: drives, strikes and checks. It names its containers, which are removed afterwards. */
interface Attempt {
  readonly host: FaultHost;
  /** A container id that is cleaned up at the end. */
  newId(): string;
  problem(text: string): void;
  /** Runs `body` and notes how long it took, which must be below `limitMs`. */
  timed<T>(what: string, limitMs: number, body: () => Promise<T>): Promise<T | undefined>;
}

export interface Special {
  readonly fault: string;
  readonly step: string;
  readonly run: (attempt: Attempt) => Promise<void>;
}

const KILLED = 137;
/** The agent's own deadline is 30 s where a guest that hangs is not to be told from one that is slow. */
const CALL_LIMIT_MS = 30_000 + SHOWN_LIMIT_MS;
const SLEEP = ["sleep", "1000"];

/** Runs one special on a clean host and leaves it clean. */
export async function runSpecial(host: FaultHost, special: Special): Promise<Outcome> {
  const problems: string[] = [];
  const ids: string[] = [];
  let shownMs = 0;
  const before = await host.ledger();
  const attempt: Attempt = {
    host,
    newId: () => {
      const id = host.newId();
      ids.push(id);
      return id;
    },
    problem: (text) => problems.push(text),
    timed: async (what, limitMs, body) => {
      const started = performance.now();
      const running = body();
      const result = await Promise.race([running, sleep(limitMs, "late" as const, { ref: false })]);
      shownMs = Math.max(shownMs, performance.now() - started);
      if (result === "late") problems.push(`hung: ${what} took longer than ${limitMs} ms`);
      return result === "late" ? undefined : result;
    },
  };
  try {
    await special.run(attempt);
  } catch (error) {
    problems.push(error instanceof Error ? error.message.split("\n").slice(0, 3).join(" ") : String(error));
  }
  host.arm();
  host.configure();
  for (const id of ids) for (const hung of await host.clean(id)) problems.push(`hung: ${hung}`);
  for (const leak of await host.leaks(before)) problems.push(`leaked ${leak}`);
  return { fault: special.fault, step: special.step, problems, shownMs: Math.round(shownMs) };
}

async function expectKilled(attempt: Attempt, id: string): Promise<void> {
  const { host } = attempt;
  await attempt.timed(`the exit of ${id}`, SHOWN_LIMIT_MS, async () => {
    while (host.events.exitStatus(id) === undefined) await sleep(50);
  });
  const status = host.events.exitStatus(id);
  if (status !== KILLED) attempt.problem(`exit status ${status}, not ${KILLED}`);
}

/** The task can be deleted, soon, and containerd has its exit status. */
async function expectDeleted(attempt: Attempt, id: string, status: number): Promise<void> {
  const remove = () => attempt.host.containerd.ctr(["task", "delete", id], { timeoutMs: 90_000 });
  const removed = await attempt.timed("Delete", SHOWN_LIMIT_MS, remove);
  // ctr says so on stderr and exits 0 itself.
  const found = removed !== undefined && /exit code (\d+)/.exec(removed.stderr)?.[1];
  if (found !== String(status)) attempt.problem(`exit status ${found} at Delete, not ${status}`);
}

const kill = (host: FaultHost, id: string): Promise<RunResult> =>
  host.containerd.ctr(["task", "kill", "--signal", "SIGKILL", id], { timeoutMs: 60_000 });

/** The agent fails (`exit`: PID 1 ends, the guest's kernel panics) or hangs when it serves one call. */
function agentFails(action: "exit" | "hang", call: string): Special {
  return {
    fault: action === "exit" ? "agent killed" : "agent hangs",
    step: `agent: ${call}`,
    run: async (attempt) => {
      const { host } = attempt;
      host.configure({ "hypervisor.qemu.kernel_params": `caisson.failpoint=${action}:${call}` });
      const id = attempt.newId();
      // With the boot, on a busy machine.
      const limit = REACH_LIMIT_MS + (action === "exit" ? SHOWN_LIMIT_MS : CALL_LIMIT_MS);
      const duringRun = ["createSandbox", "createContainer", "startProcess", "stdio", "deleteProcess"];
      if (call === "hello" || duringRun.includes(call)) {
        const argv = call === "deleteProcess" ? ["sh", "-c", "exit 7"] : SLEEP;
        const result = await attempt.timed("run", limit, () =>
          host.run(id, argv, { flags: ["--rm"], timeoutMs: 2 * REACH_LIMIT_MS }),
        );
        if (result?.code === 0) attempt.problem("run exits 0");
        const status = host.events.exitStatus(id);
        if (call === "deleteProcess" && status !== 7) attempt.problem(`exit status ${status}, not 7`);
        return;
      }
      await host.runDetached(id, SLEEP);
      if (call === "signalProcess") {
        const killed = await attempt.timed("kill -9", SHOWN_LIMIT_MS, () => kill(host, id));
        if (killed !== undefined && action === "hang" && killed.code !== 0)
          attempt.problem(describeResult(killed));
        return expectKilled(attempt, id);
      }
      const exec = await attempt.timed("exec", limit, () =>
        host.exec(id, ["true"], { timeoutMs: 2 * REACH_LIMIT_MS }),
      );
      if (exec?.code === 0) attempt.problem("exec exits 0");
      if (action === "hang") await attempt.timed("kill -9", SHOWN_LIMIT_MS, () => kill(host, id));
      await expectKilled(attempt, id);
    },
  };
}

const qemuStopped: Special = {
  fault: "QEMU stopped (SIGSTOP)",
  step: "idle, then kill -9",
  run: async (attempt) => {
    const { host } = attempt;
    const id = attempt.newId();
    await host.runDetached(id, SLEEP);
    await host.kill("qemu", "SIGSTOP");
    const status = await attempt.timed("State", SHOWN_LIMIT_MS, () => host.status(id));
    if (status !== "RUNNING") attempt.problem(`State says ${status}`);
    const killed = await attempt.timed("kill -9", SHOWN_LIMIT_MS, () => kill(host, id));
    if (killed !== undefined && killed.code !== 0) attempt.problem(describeResult(killed));
    await expectKilled(attempt, id);
    await expectDeleted(attempt, id, KILLED);
  },
};

const qemuStoppedExec: Special = {
  fault: "QEMU stopped (SIGSTOP)",
  step: "exec",
  run: async (attempt) => {
    const { host } = attempt;
    const id = attempt.newId();
    await host.runDetached(id, SLEEP);
    await host.kill("qemu", "SIGSTOP");
    const exec = await attempt.timed("exec", CALL_LIMIT_MS, () =>
      host.exec(id, ["true"], { timeoutMs: 2 * REACH_LIMIT_MS }),
    );
    if (exec?.code === 0) attempt.problem("exec exits 0");
    await host.kill("qemu", "SIGCONT");
    const again = await host.exec(id, ["sh", "-c", "exit 9"], { timeoutMs: 90_000 });
    if (again.code !== 9) attempt.problem(`exec after SIGCONT: ${describeResult(again)}`);
  },
};

const guestPanic: Special = {
  fault: "guest kernel panic",
  step: "idle",
  run: async (attempt) => {
    const { host } = attempt;
    const id = attempt.newId();
    const script = "sleep 1; echo c > /proc/sysrq-trigger; sleep 1000";
    await host.runDetached(id, ["sh", "-c", script], ["--privileged"]);
    await expectKilled(attempt, id);
  },
};

/** A tmpfs of `size` bytes as run directory, full or nearly so while a container starts. */
function diskFull(kib: number): Special {
  return {
    fault: "run directory full",
    step: `create with ${kib} KiB free`,
    run: async (attempt) => {
      const { host } = attempt;
      const remount = (size: string) =>
        host.inWorld(`mount -o remount,size=${size} tmpfs /run/caisson`).then((result) => {
          if (result.code !== 0) throw new Error(describeResult(result));
        });
      // A tmpfs of one page cannot even hold a file's first byte.
      await remount(`${kib + 4}k`);
      await host.inWorld("head -c 4096 /dev/zero > /run/caisson/.filler");
      try {
        const id = attempt.newId();
        const result = await attempt.timed("run", REACH_LIMIT_MS + SHOWN_LIMIT_MS, () =>
          host.run(id, ["sh", "-c", "exit 7"], { flags: ["--rm"] }),
        );
        const refused = /No space left|ENOSPC|cannot write the journal|cannot create/i;
        if (result !== undefined && result.code !== 7 && !refused.test(result.stderr))
          attempt.problem(`no clear reason: ${result.stderr.trim().split("\n").at(-1)}`);
      } finally {
        await host.inWorld("rm -f /run/caisson/.filler");
        await remount("64m");
      }
    },
  };
}

/** Room for a few more files only: every step that makes one can be the one that fails. */
function inodesGone(free: number): Special {
  return {
    fault: "run directory full",
    step: `create with ${free} inodes free`,
    run: async (attempt) => {
      const { host } = attempt;
      const { stdout } = await host.inWorld("df --output=iused /run/caisson | tail -n 1");
      await host.inWorld(`mount -o remount,nr_inodes=${Number(stdout) + free} tmpfs /run/caisson`);
      try {
        const result = await attempt.timed("run", REACH_LIMIT_MS + SHOWN_LIMIT_MS, () =>
          host.run(attempt.newId(), ["sh", "-c", "exit 7"], { flags: ["--rm"] }),
        );
        const refused = /No space left|ENOSPC|cannot (write|create|listen|bind|mount)|Failed to bind/i;
        if (result !== undefined && result.code !== 7 && !refused.test(result.stderr))
          attempt.problem(`no clear reason: ${result.stderr.trim().split("\n").at(-1)}`);
      } finally {
        await host.inWorld("mount -o remount,nr_inodes=1000000 tmpfs /run/caisson");
      }
    },
  };
}

const diskFullRunning: Special = {
  fault: "run directory full",
  step: "idle, exec, kill, delete",
  run: async (attempt) => {
    const { host } = attempt;
    const id = attempt.newId();
    await host.runDetached(id, SLEEP);
    await host.inWorld("mount -o remount,size=1m tmpfs /run/caisson; cat /dev/zero > /run/caisson/.filler");
    try {
      const exec = await attempt.timed("exec", SHOWN_LIMIT_MS, () => host.exec(id, ["sh", "-c", "exit 9"]));
      if (exec?.code !== 9) attempt.problem(`exec: ${exec === undefined ? "late" : describeResult(exec)}`);
      await kill(host, id);
      await expectKilled(attempt, id);
      await expectDeleted(attempt, id, KILLED);
    } finally {
      await host.inWorld("rm -f /run/caisson/.filler; mount -o remount,size=64m tmpfs /run/caisson");
    }
  },
};

/** The client that reads a container's output stops reading, or is killed. */
function reader(how: "SIGSTOP" | "SIGKILL"): Special {
  return {
    fault: how === "SIGSTOP" ? "output pipe full" : "output pipe without a reader",
    step: "stdio, then kill -9 and delete",
    run: async (attempt) => {
      const { host } = attempt;
      const id = attempt.newId();
      const [file = "", ...args] = host.runCommand(id, [
        "sh",
        "-c",
        "while :; do head -c 65536 /dev/zero; done",
      ]);
      const client = spawn(file, args, { stdio: ["ignore", "pipe", "ignore"], detached: true });
      try {
        await new Promise<void>((resolve) => client.stdout.once("data", () => resolve()));
        process.kill(-(client.pid ?? 0), how);
        await sleep(1_500); // until every buffer on the way is full
        const exec = await attempt.timed("exec", SHOWN_LIMIT_MS, () => host.exec(id, ["sh", "-c", "exit 9"]));
        if (exec?.code !== 9) attempt.problem(`exec: ${exec === undefined ? "late" : describeResult(exec)}`);
        const killed = await attempt.timed("kill -9", SHOWN_LIMIT_MS, () => kill(host, id));
        if (killed !== undefined && killed.code !== 0) attempt.problem(describeResult(killed));
        await expectKilled(attempt, id);
        await expectDeleted(attempt, id, KILLED);
      } finally {
        killQuietly(-(client.pid ?? 0));
      }
    },
  };
}

const containerdRestarted: Special = {
  fault: "containerd killed and started again",
  step: "two running containers: wait, stdio, exec",
  run: async (attempt) => {
    const { host } = attempt;
    const [ticking, ending] = [attempt.newId(), attempt.newId()];
    await host.runTicking(ticking);
    await host.runDetached(ending, ["sh", "-c", "sleep 4; exit 5"]);
    const before = await host.attach(ticking, 1_000);
    await host.containerd.stop("SIGKILL");
    await sleep(500);
    await host.containerd.start();
    await host.events.follow();
    const status = await attempt.timed("State", SHOWN_LIMIT_MS, () => host.status(ticking));
    if (status !== "RUNNING") attempt.problem(`${ticking} is ${status}`);
    const exec = await host.exec(ticking, ["sh", "-c", "exit 9"], { timeoutMs: 90_000 });
    if (exec.code !== 9) attempt.problem(`exec: ${describeResult(exec)}`);
    const after = await host.attach(ticking, 1_500);
    if (before.length === 0) attempt.problem("no output before the restart");
    const next = after[0] ?? 0;
    if (after.length === 0) attempt.problem("no output after the restart");
    else if (next > (before.at(-1) ?? 0) + 1) attempt.problem(`output lost: ${before.at(-1)}, then ${next}`);
    await attempt.timed("the exit of its own accord", SHOWN_LIMIT_MS, async () => {
      while (host.events.exitStatus(ending) === undefined && (await host.status(ending)) !== "STOPPED")
        await sleep(100);
    });
    await expectDeleted(attempt, ending, 5);
  },
};

/** Half of the shims of `count` containers that start at once are killed, one after the other. */
const parallel = (count: number): Special => ({
  fault: `half of ${count} shims killed`,
  step: `${count} containers starting at once`,
  run: async (attempt) => {
    const { host } = attempt;
    // So many machines that start at once take as long as the host has other work: that is not what is looked at here.
    host.configure({
      "hypervisor.qemu.default_memory": 128,
      "agent.caisson.dial_timeout": 300,
      "runtime.create_container_timeout": 300,
    });
    const runs = Array.from({ length: count }, () => {
      const id = attempt.newId();
      // Without the pod's namespace, which one machine can have.
      return host.runPlain(id, ["sh", "-c", "exit 7"], { flags: ["--rm"], timeoutMs: 400_000 });
    });
    let over = false;
    const finished = Promise.all(runs).finally(() => {
      over = true;
    });
    const victims = new Set<number>();
    while (victims.size < count / 2 && !over) {
      await sleep(8_000 / count);
      const pids = host.pids("shim").filter((pid) => !victims.has(pid));
      const victim = pids[Math.floor(Math.random() * pids.length)];
      if (victim === undefined) continue;
      victims.add(victim);
      killQuietly(victim);
    }
    const results = await attempt.timed("all runs", 390_000, () => finished);
    if (victims.size < count / 2) attempt.problem(`only ${victims.size} shims could be killed`);
    // Of a shim that died before containerd had connected, nobody removes the socket.
    await sleep(1_500);
    const collected = await host.collectGarbage();
    if (/removed sandbox/.test(collected)) attempt.problem(`left to gc: ${collected}`);
    const good = (results ?? []).filter(({ code }) => code === 7).length;
    if (good < count - victims.size) {
      const failed = (results ?? []).filter(({ code }) => code !== 7).map(describeResult);
      const summary = `${good} of the ${count - victims.size} spared ran to their end`;
      attempt.problem([summary, ...failed].join("\n"));
    }
  },
});

/** The clean-up is killed itself: `shim gc` (or the next sandbox of that id) finishes it. */
function deleteKilled(point: FailPoint, action: "kill" | "error"): Special {
  return {
    fault: action === "kill" ? "shim killed, then `delete` killed" : "shim killed, then `delete` fails",
    step: point,
    run: async (attempt) => {
      const { host } = attempt;
      const id = attempt.newId();
      await host.runDetached(id, SLEEP);
      host.arm({ [point]: action });
      const logged = host.containerd.log().length;
      const failed = () =>
        host.containerd.log().slice(logged).includes("failed to clean up after shim disconnected");
      await host.kill("shim");
      await attempt.timed("the failure of delete", SHOWN_LIMIT_MS, async () => {
        while (!failed()) await sleep(50);
      });
      host.arm();
      const listed = await host.collectGarbage(true);
      if (!/would remove sandbox/.test(listed)) attempt.problem(`a dry run of gc finds nothing: ${listed}`);
      const report = await host.collectGarbage();
      if (!/removed sandbox/.test(report) || /still there:/.test(report)) attempt.problem(report);
      // containerd keeps a bundle whose `delete` failed, and calls it once more when it starts.
      await host.containerd.stop();
      await host.containerd.start();
      await host.events.follow();
    },
  };
}

const shimAndContainerdKilled: Special = {
  fault: "shim and containerd killed",
  step: "idle, then gc",
  run: async (attempt) => {
    const { host } = attempt;
    const [dead, living] = [attempt.newId(), attempt.newId()];
    await host.runDetached(dead, SLEEP);
    const shim = await host.worker("shim");
    await host.runPlainDetached(living, SLEEP);
    await host.containerd.stop("SIGKILL");
    killQuietly(shim);
    await sleep(500);
    const list = () => host.inWorld(`${process.execPath} ${join(built.bin, "shim")} list`);
    const listed = (await list()).stdout;
    const row = (id: string, text = listed) => text.split("\n").find((line) => line.includes(id)) ?? "";
    if (!row(dead).includes("orphaned")) attempt.problem(`shim list shows no orphan: ${listed}`);
    if (!row(living).includes("running")) attempt.problem(`shim list shows no living one: ${listed}`);
    const removal = (verb: string) => `${verb} sandbox ${dead}: /run/caisson/${dead}-`;
    const dry = await host.collectGarbage(true);
    if (!dry.includes(removal("would remove"))) attempt.problem(`gc --dry-run: ${dry}`);
    const report = await host.collectGarbage();
    if (!report.includes(removal("removed"))) attempt.problem(`gc: ${report}`);
    if (!report.includes("1 sandbox is in use")) attempt.problem(`gc: ${report}`);
    const after = (await list()).stdout;
    if (row(dead, after) !== "" || !row(living, after).includes("running"))
      attempt.problem(`shim list after gc: ${after}`);
    await host.containerd.start();
    await host.events.follow();
    const exec = await host.exec(living, ["sh", "-c", "exit 9"], { timeoutMs: 90_000 });
    if (exec.code !== 9) attempt.problem(`the living one does not go on: ${describeResult(exec)}`);
  },
};

const hostReboot: Special = {
  fault: "host reboot",
  step: "run directories gone, containerd's state kept",
  run: async (attempt) => {
    const { host } = attempt;
    const id = attempt.newId();
    await host.runDetached(id, SLEEP);
    await host.containerd.stop("SIGKILL");
    // What a reboot takes: every process, every mount, the cgroups, and what is below /run.
    for (const { pid } of host.world.processes()) killQuietly(pid);
    await sleep(300);
    const script =
      "grep ' /run/caisson/' /proc/self/mountinfo | cut -d' ' -f5 | tac | xargs -r -n1 umount -l; rm -rf /run/caisson/* /run/containerd/s/*; ip netns exec pod tc qdisc del dev eth0 ingress 2>/dev/null; true";
    await host.inWorld(script);
    removeCgroups(host.world.name);
    await host.containerd.start();
    await host.events.follow();
    const status = await host.status(id);
    if (status === "RUNNING") attempt.problem("containerd still shows it running");
    const again = await attempt.timed("clean", SHOWN_LIMIT_MS, () => host.clean(id));
    if (again !== undefined && again.length > 0) attempt.problem(again.join(", "));
  },
};

const agentCalls = [
  "hello",
  "createSandbox",
  "createContainer",
  "stdio",
  "startProcess",
  "createExec",
  "signalProcess",
  "deleteProcess",
];

export const specials: readonly Special[] = [
  ...agentCalls.map((call) => agentFails("exit", call)),
  ...["createContainer", "startProcess", "createExec", "signalProcess", "deleteProcess"].map((call) =>
    agentFails("hang", call),
  ),
  guestPanic,
  qemuStopped,
  qemuStoppedExec,
  ...[0, 4, 8, 16].map(diskFull),
  ...[0, 1, 2, 3, 4, 5, 6, 8, 10, 12].map(inodesGone),
  diskFullRunning,
  reader("SIGSTOP"),
  reader("SIGKILL"),
  containerdRestarted,
  ...recoverySteps.map((point) => deleteKilled(point, "kill")),
  ...recoverySteps.map((point) => deleteKilled(point, "error")),
  shimAndContainerdKilled,
  hostReboot,
  parallel(6),
  parallel(20),
];
