/** One fault at one step: drives a container there, strikes, and judges what containerd shows and what is left. */
import { PassThrough } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { ArmedAction, FailAction } from "../../src/base/failpoint.ts";
import type { LedgerSnapshot } from "../harness/leak-ledger.ts";
import type { RunResult } from "../harness/run.ts";
import { AGENT_EXITS, type FaultHost, killQuietly, type Victim } from "./fault-host.ts";
import type { Step } from "./steps.ts";

/**
 * `error`: our own code throws there. `shim`: SIGKILL to the process that is at the step. `qemu`, `virtiofsd`, `vsock`:
 * SIGKILL to that one while the shim stands still. `agent`: the guest's agent ends meanwhile. `containerd`: SIGKILL to
 * the daemon, which is then started again.
 */
export type Fault = "error" | "shim" | "qemu" | "virtiofsd" | "vsock" | "agent" | "containerd";
export const faults: readonly Fault[] = [
  "error",
  "shim",
  "qemu",
  "virtiofsd",
  "vsock",
  "agent",
  "containerd",
];

export interface Outcome {
  readonly fault: string;
  readonly step: string;
  /** What went wrong; empty when all is well. */
  readonly problems: readonly string[];
  /** Milliseconds from the fault until containerd showed the end (or answered the call). */
  readonly shownMs: number;
}

/**
 * Milliseconds in which containerd must show what became of a container: enough for a busy machine, and far from for
 * ever. How long it took is in the table.
 */
export const SHOWN_LIMIT_MS = 30_000;
/** Milliseconds for a container to get to a step. */
export const REACH_LIMIT_MS = 90_000;
/** Milliseconds before a client is killed that got no answer. */
const CALL_LIMIT_MS = SHOWN_LIMIT_MS + REACH_LIMIT_MS;
const OWN_STATUS = 7;
const KILLED = 137;

/** Whether `fault` can happen at `step`. */
export function applies(fault: Fault, step: Step): boolean {
  // An exception before the first request has no request to fail.
  if (step.phase === "acquire") return fault === "error" || fault === "shim";
  if (fault === "error") return step.point !== undefined && step.point !== "server.listening";
  if (fault === "shim" || fault === "containerd") return true;
  return step.inStart !== true && step.has[fault] === true;
}

/** Runs one scenario on a clean host and leaves it clean. */
export async function runScenario(host: FaultHost, fault: Fault, step: Step): Promise<Outcome> {
  const scenario = new Scenario(host, fault, step);
  const before = await host.ledger();
  if (fault === "agent") host.configure(AGENT_EXITS);
  try {
    await scenario.play();
  } catch (error) {
    scenario.problem(error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error));
  }
  host.arm();
  host.configure();
  for (const hung of await host.clean(scenario.id)) scenario.problem(`hung: ${hung}`);
  for (const leak of await leftBy(host, fault, step, before)) scenario.problem(`leaked ${leak}`);
  if (scenario.problems.length > 0) await host.reset();
  return { fault, step: step.name, problems: scenario.problems, shownMs: Math.round(scenario.shownMs) };
}

/**
 * What remains. Where `start` itself was killed nobody calls `delete`: the server that nobody knows of ends itself
 * after half a minute, and a socket without a server waits for `gc` (or for the next start of that id).
 */
async function leftBy(host: FaultHost, fault: Fault, step: Step, before: LedgerSnapshot): Promise<string[]> {
  if (step.inStart !== true || fault !== "shim") return host.leaks(before);
  if (step.point === "start.bound") {
    await sleep(1_500); // gc leaves a socket alone that may just be on its way to listen
    await host.collectGarbage();
  }
  return host.leaks(before, 40_000);
}

/** @returns what is wrong with a new container on this host; undefined when it works */
export async function newContainerFails(host: FaultHost): Promise<string | undefined> {
  const id = host.newId();
  const result = await host.run(id, ["sh", "-c", `exit ${OWN_STATUS}`], {
    flags: ["--rm"],
    timeoutMs: CALL_LIMIT_MS,
  });
  return result.code === OWN_STATUS
    ? undefined
    : `a new container fails: ${result.stderr.trim().split("\n").at(-1)}`;
}

class Scenario {
  readonly id: string;
  readonly problems: string[] = [];
  shownMs = 0;
  readonly #host: FaultHost;
  readonly #fault: Fault;
  readonly #step: Step;
  #struckAt = 0;

  constructor(host: FaultHost, fault: Fault, step: Step) {
    this.#host = host;
    this.#fault = fault;
    this.#step = step;
    this.id = host.newId();
  }

  problem(text: string): void {
    this.problems.push(text);
  }

  async play(): Promise<void> {
    switch (this.#step.phase) {
      case "create":
      case "run":
        return this.#create();
      case "exec":
        return this.#exec();
      case "stdio":
        return this.#stdio();
      case "idle":
        return this.#idle();
      case "teardown":
        return this.#teardown();
      case "acquire":
        return this.#acquire();
    }
  }

  /** The call fails soon and says why; or, where the part is optional, the container runs without it. */
  async #acquire(): Promise<void> {
    this.#arm();
    const logged = this.#host.containerd.log().length;
    const flags = this.#host.flagsFor(this.#step.way ?? "any", this.id);
    const call = this.#host.run(this.id, ["sh", "-c", `exit ${OWN_STATUS}`], {
      flags,
      timeoutMs: CALL_LIMIT_MS,
    });
    await this.#strike(call);
    const result = await this.#answer(call);
    if (result === undefined) return;
    const ran = result.code === OWN_STATUS || (this.#step.way === "logger" && result.code === 0);
    if (result.code === 0 && !ran) this.problem("run exits 0");
    if (ran && this.#fault === "shim") this.problem("the step was not reached");
    if (!ran && result.stderr.trim() === "") this.problem("no reason is given");
    if (this.#fault === "shim") return;
    const passed = async () =>
      `${result.stderr}${this.#host.containerd.log().slice(logged)}`.includes(
        `fail point ${this.#step.point}`,
      );
    await this.#until(passed);
    if (!(await passed())) this.problem("the step was not reached");
  }

  /** The call must fail soon, saying why. */
  async #create(): Promise<void> {
    this.#arm();
    const call = this.#host.run(this.id, ["sh", "-c", `exit ${OWN_STATUS}`], { timeoutMs: CALL_LIMIT_MS });
    await this.#strike(call);
    const result = await this.#answer(call);
    if (this.#fault === "containerd" || result === undefined) return;
    // Nobody has to notice the death of a helper whose work is done when the container ends.
    const unharmed = this.#step.phase === "run" && result.code === OWN_STATUS;
    if (result.code === 0 || (result.code === OWN_STATUS && !unharmed))
      this.problem(`run exits ${result.code}`);
    if (result.code !== 0 && !unharmed && result.stderr.trim() === "" && this.#step.phase === "create")
      this.problem("no reason is given");
  }

  async #exec(): Promise<void> {
    await this.#host.runDetached(this.id, ["sleep", "1000"]);
    this.#arm();
    const call = this.#host.exec(this.id, ["true"], { timeoutMs: CALL_LIMIT_MS });
    await this.#strike(call);
    await this.#answer(call);
    await this.#afterRunning();
  }

  async #stdio(): Promise<void> {
    const script = "echo ready; cat & while :; do head -c 60000 /dev/zero; sleep 0.1; done";
    const input = new PassThrough();
    // Not before the process runs: a stream that breaks earlier fails its start.
    const onStdout = () => {
      if (input.writableEnded) return;
      this.#arm();
      input.end("x".repeat(50_000));
    };
    const call = this.#host.run(this.id, ["sh", "-c", script], { input, onStdout, timeoutMs: CALL_LIMIT_MS });
    await this.#strike(call);
    if (this.#fault === "error") await this.#until(() => this.#passed(), REACH_LIMIT_MS);
    else if (this.#fault !== "containerd") await this.#answer(call);
    await this.#afterRunning();
    if (this.#fault === "error") await this.#answer(call);
  }

  async #idle(): Promise<void> {
    await this.#host.runDetached(this.id, ["sleep", "1000"]);
    await this.#hit();
    await this.#afterRunning();
  }

  /** The container has ended by itself: that status stands, whatever happens to its remains. */
  async #teardown(): Promise<void> {
    this.#arm();
    const script = `sleep ${this.#step.lives ?? 0}; exit ${OWN_STATUS}`;
    const call = this.#host.run(this.id, ["sh", "-c", script], {
      flags: ["--rm"],
      timeoutMs: CALL_LIMIT_MS,
    });
    await this.#strike(call);
    await this.#answer(call);
    if (this.#fault === "containerd") return;
    // The client may be answered before containerd has run `delete`, which knows the status.
    await this.#until(async () => this.#host.events.exitStatus(this.id) !== undefined);
    const status = this.#host.events.exitStatus(this.id);
    if (status !== OWN_STATUS) this.problem(`exit status ${status}, not ${OWN_STATUS}`);
  }

  /** A running container was struck: it is shown as killed, or lives where the fault spares it. */
  async #afterRunning(): Promise<void> {
    this.#host.arm();
    if (this.#fault === "error" || this.#fault === "containerd") {
      const again = await this.#host.exec(this.id, ["sh", "-c", "exit 9"], { timeoutMs: CALL_LIMIT_MS });
      if (again.code !== 9) this.problem(`the container does not go on: ${again.stderr.trim()}`);
      await this.#host.containerd.ctr(["task", "kill", "--signal", "SIGKILL", this.id]);
    }
    await this.#until(async () => this.#host.events.exitStatus(this.id) !== undefined);
    const status = this.#host.events.exitStatus(this.id);
    if (status !== KILLED) this.problem(`exit status ${status}, not ${KILLED}`);
    const shown = await this.#host.status(this.id);
    if (shown === "RUNNING") this.problem("containerd still shows it running");
  }

  /** Whether the container runs and its streams have had time to carry something. */
  async #passed(): Promise<boolean> {
    if (!this.#host.events.topics(this.id).includes("/tasks/start")) return false;
    await sleep(1_000);
    return true;
  }

  #arm(): void {
    const { point, passage } = this.#step;
    if (point === undefined) return;
    const action: FailAction = this.#fault === "error" ? "error" : this.#fault === "shim" ? "kill" : "stop";
    const armed: ArmedAction = passage === undefined ? action : `${action}#${passage}`;
    this.#host.arm({ [point]: armed });
  }

  /** Waits for the shim to be at the step and hits the victim; for `error` and `shim` the point itself does it. */
  async #strike(call: Promise<unknown>): Promise<void> {
    this.#struckAt = performance.now();
    if (this.#fault === "error" || this.#fault === "shim") return;
    let over = false;
    void call.then(() => {
      over = true;
    });
    const stopped = await this.#host.stoppedShim(REACH_LIMIT_MS, () => over);
    if (stopped === undefined) {
      this.problem("the step was not reached");
      return;
    }
    await this.#hit(stopped);
  }

  async #hit(stopped?: number): Promise<void> {
    const fault = this.#fault;
    this.#struckAt = performance.now();
    try {
      if (fault === "containerd") await this.#host.containerd.stop("SIGKILL");
      else if (fault === "agent") await this.#host.killAgent(this.id);
      else if (fault !== "error") await this.#host.kill(fault satisfies Victim);
    } finally {
      this.#host.arm();
      if (stopped !== undefined) killQuietly(stopped, "SIGCONT");
    }
    if (fault !== "containerd") return;
    await this.#host.containerd.start();
    await this.#host.events.follow();
  }

  /** The call's result, within the limit from the fault on. */
  async #answer(call: Promise<RunResult>): Promise<RunResult | undefined> {
    // With `error` and `shim` the way to the step counts too.
    const reaching = this.#fault === "error" || this.#fault === "shim" ? REACH_LIMIT_MS : 0;
    const limit = SHOWN_LIMIT_MS + reaching;
    const result = await Promise.race([call, sleep(limit, undefined, { ref: false })]);
    this.shownMs = performance.now() - this.#struckAt;
    if (result === undefined) this.problem(`hung: no answer after ${limit} ms`);
    return result;
  }

  async #until(condition: () => Promise<boolean>, limitMs = SHOWN_LIMIT_MS): Promise<void> {
    const deadline = performance.now() + limitMs;
    while (!(await condition())) {
      if (performance.now() > deadline) return;
      await sleep(50);
    }
    this.shownMs = performance.now() - this.#struckAt;
  }
}
