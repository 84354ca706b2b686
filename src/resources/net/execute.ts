/**
 * Does a plan with as few system calls and threads as possible: one list on one thread inside the pod's namespace,
 * consecutive rtnetlink changes in one datagram.
 */
import { setTimeout as delay } from "node:timers/promises";
import { errnoOf, SandboxError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { closeFd } from "../../native/fd.ts";
import { bpfLoad, type NetnsOperation, type NetnsResult, runInNetns } from "../../native/net.ts";
import {
  Errno,
  ETH_P_ALL,
  encodeBpfDirectAction,
  NetlinkError,
  NetlinkProtocol,
  type NetlinkReply,
  type NetlinkRequest,
  type NetlinkSocket,
  Nlm,
  newFilter,
  openSocketOperations,
  repliesOf,
} from "../../netlink/index.ts";
import { encodeBatch } from "../../netlink/message.ts";
import { encodeNftBatch } from "../../netlink/nftables.ts";
import { BPF_PROG_TYPE_SCHED_CLS } from "./bpf-program.ts";
import type { PlanStep, WiringPlan } from "./plan.ts";
import { macvtapOperations, tapOperations } from "./tap-device.ts";

/** A qdisc that was just removed stays busy until its last user let go: tried so often, so long apart. */
const BUSY_ATTEMPTS = 5;
const BUSY_DELAY_MS = 10;

/** A step of a plan that the kernel refused. `step` is its name, the cause has the errno. */
export class StepError extends SandboxError {
  readonly step: PlanStep;
  /** Steps whose subjects, where they exist, are not ours: those that the kernel refused or that were not tried. */
  readonly notMade: readonly PlanStep[];

  constructor(step: PlanStep, cause: unknown, notMade: readonly PlanStep[] = [step]) {
    super("ERR_HOST", `cannot set up ${step.name}`, { cause, fields: { step: step.name } });
    this.step = step;
    this.notMade = notMade;
  }
}

export interface Executed {
  /** Descriptors of each tap by name, one a queue; the caller closes them. */
  readonly tapFds: ReadonlyMap<string, readonly number[]>;
  /** Names of steps that were refused and replaced or passed over. */
  readonly refused: readonly string[];
}

/** Where in the list of operations the answer for some steps is. */
export type Slot =
  | {
      readonly kind: "route";
      readonly at: number;
      readonly first: number;
      readonly steps: readonly RouteStep[];
    }
  | { readonly kind: "nft"; readonly at: number; readonly first: number; readonly step: PlanStep }
  | {
      readonly kind: "tap";
      readonly from: number;
      readonly to: number;
      readonly opens: number[];
      readonly step: PlanStep;
    }
  | { readonly kind: "sysctl"; readonly at: number; readonly step: PlanStep };

interface RouteStep {
  readonly step: PlanStep;
  readonly request: NetlinkRequest;
}

/** A plan's operations, and the programs that they need. Ends with executePlan() or release(). */
export interface PreparedPlan {
  readonly operations: readonly NetnsOperation[];
  readonly slots: readonly Slot[];
  /** Closes the programs. */
  release(): void;
}

/**
 * Loads the programs of a plan and writes its messages; the namespace stays as it is.
 * @throws StepError for a program that the kernel refused; nothing is held then.
 */
export function preparePlan(plan: Pick<WiringPlan, "steps">, socket: NetlinkSocket): PreparedPlan {
  const programs: number[] = [];
  const release = () => {
    for (const fd of programs.splice(0)) closeFd(fd);
  };
  try {
    const list = new OperationList(socket, programs);
    for (const step of plan.steps) list.add(step);
    return { ...list.finish(), release };
  } catch (error) {
    release();
    throw error instanceof StepError ? new StepError(error.step, error.cause, plan.steps) : error;
  }
}

/**
 * @param socket a NETLINK_ROUTE socket in the namespace.
 * @param prepared of this very plan, with this socket; released in any case.
 * @throws StepError for the first step that failed; descriptors are closed then, but nothing is undone.
 */
export async function executePlan(
  plan: Pick<WiringPlan, "steps">,
  netnsFd: number,
  socket: NetlinkSocket,
  log: Log,
  prepared: PreparedPlan = preparePlan(plan, socket),
): Promise<Executed> {
  let results: NetnsResult[] = [];
  try {
    const { operations, slots } = prepared;
    results = await runInNetns(netnsFd, operations);
    const refused = await settle(slots, results, socket, log);
    const tapFds = collectTaps(slots, results);
    for (const result of results)
      if (result.fd !== undefined && !isTap(tapFds, result.fd)) closeFd(result.fd);
    results = [];
    await doOtherwise(refused, netnsFd, socket, log);
    return { tapFds, refused: refused.map((step) => step.name) };
  } catch (error) {
    for (const result of results) if (result.fd !== undefined) closeFd(result.fd);
    throw error;
  } finally {
    prepared.release();
  }
}

function isTap(tapFds: ReadonlyMap<string, readonly number[]>, fd: number): boolean {
  return [...tapFds.values()].some((fds) => fds.includes(fd));
}

/** Translates steps to operations, gathering neighbouring rtnetlink requests. */
class OperationList {
  readonly #socket: NetlinkSocket;
  readonly #programs: number[];
  readonly #operations: NetnsOperation[] = [];
  readonly #slots: Slot[] = [];
  #pending: RouteStep[] = [];

  /** @param programs receives the descriptors of loaded programs; the caller closes them. */
  constructor(socket: NetlinkSocket, programs: number[]) {
    this.#socket = socket;
    this.#programs = programs;
  }

  add(step: PlanStep): void {
    const { action } = step;
    if (action.do === "route") {
      this.#pending.push({ step, request: action.request });
      return;
    }
    if (action.do === "bpf-filter") {
      this.#pending.push({ step, request: this.#bpfFilter(step, action) });
      return;
    }
    this.#flush();
    const at = this.#operations.length;
    if (action.do === "sysctl") {
      const path = `/proc/sys/net/${action.key}`;
      this.#slots.push({ kind: "sysctl", at, step });
      this.#operations.push({ do: "write-file", path, data: Buffer.from(action.value), optional: true });
    } else if (action.do === "nft") {
      const first = 1;
      const data = encodeNftBatch(action.requests, first);
      const open = openSocketOperations(NetlinkProtocol.Netfilter, at);
      this.#operations.push(...open.map((operation) => ({ ...operation, optional: true })));
      this.#slots.push({ kind: "nft", at: this.#operations.length, first, step });
      this.#operations.push(
        { do: "exchange", fd: { of: at }, data, optional: true },
        { do: "close", fd: { of: at }, optional: true },
      );
    } else {
      const { operations, opens } =
        action.do === "tap" ? tapOperations(action.tap, at) : macvtapOperations(action.tap, at);
      this.#operations.push(...operations);
      this.#slots.push({ kind: "tap", from: at, to: this.#operations.length, opens, step });
    }
  }

  finish(): { operations: readonly NetnsOperation[]; slots: readonly Slot[] } {
    this.#flush();
    return { operations: this.#operations, slots: this.#slots };
  }

  #flush(): void {
    if (this.#pending.length === 0) return;
    const requests = this.#pending.map(({ request }) => request);
    const first = this.#socket.takeSequence(requests.length);
    this.#slots.push({ kind: "route", at: this.#operations.length, first, steps: this.#pending });
    this.#operations.push({ do: "exchange", fd: this.#socket.fd, data: encodeBatch(requests, first) });
    this.#pending = [];
  }

  #bpfFilter(step: PlanStep, action: Extract<PlanStep["action"], { do: "bpf-filter" }>): NetlinkRequest {
    const { index, parent, preference, programName } = action;
    let fd: number;
    try {
      fd = bpfLoad(BPF_PROG_TYPE_SCHED_CLS, action.program, programName);
    } catch (error) {
      throw new StepError(step, error);
    }
    this.#programs.push(fd);
    const address = { index, parent, handle: 1, preference, protocol: ETH_P_ALL };
    const options = encodeBpfDirectAction(fd, programName);
    return newFilter(address, "bpf", options, Nlm.Create | Nlm.Exclusive, action.label);
  }
}

/** Looks at every answer in order. @returns the steps that were refused but may be. @throws StepError */
async function settle(
  slots: readonly Slot[],
  results: readonly NetnsResult[],
  socket: NetlinkSocket,
  log: Log,
): Promise<PlanStep[]> {
  const refused: PlanStep[] = [];
  for (const [i, slot] of slots.entries()) {
    try {
      if (!(await settleSlot(slot, results, socket, log)) && slot.kind !== "route") refused.push(slot.step);
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      const later = slots.slice(i + 1).flatMap((next) => notMadeIn(next, results));
      throw new StepError(error.step, error.cause, [...error.notMade, ...later]);
    }
  }
  return refused;
}

/** @returns false for guard chains that the kernel refused. @throws StepError */
async function settleSlot(
  slot: Slot,
  results: readonly NetnsResult[],
  socket: NetlinkSocket,
  log: Log,
): Promise<boolean> {
  if (slot.kind === "tap") {
    const errno = tapErrno(slot, results);
    if (errno !== 0) throw new StepError(slot.step, new NetlinkError("opening the tap", errno));
    return true;
  }
  const result = results[slot.at];
  if (result === undefined) return true;
  if (slot.kind === "nft") return nftAccepted(slot.step, slot.first, result, log);
  if (slot.kind === "sysctl") {
    if (result.errno !== 0 && result.errno !== Errno.ENOENT) {
      log.warn({ step: slot.step.name, errno: result.errno }, `cannot set up ${slot.step.name}`);
    }
  } else {
    await settleRoutes(slot.steps, routeReplies(slot, result), socket);
  }
  return true;
}

/** Of the first operation that failed; 0 for none. */
function tapErrno(slot: Extract<Slot, { kind: "tap" }>, results: readonly NetnsResult[]): number {
  return results.slice(slot.from, slot.to).find(({ errno }) => errno !== 0)?.errno ?? 0;
}

function routeReplies(slot: Extract<Slot, { kind: "route" }>, result: NetnsResult): NetlinkReply[] {
  return repliesOf(
    result,
    slot.first,
    slot.steps.map(({ request }) => request),
  );
}

/** The steps of a slot, behind one that failed, that were not done. */
function notMadeIn(slot: Slot, results: readonly NetnsResult[]): PlanStep[] {
  if (slot.kind === "tap") return tapErrno(slot, results) === 0 ? [] : [slot.step];
  const result = results[slot.at];
  const steps = slot.kind === "route" ? slot.steps.map(({ step }) => step) : [slot.step];
  if (result === undefined || result.errno !== 0) return steps;
  if (slot.kind !== "route") return [];
  return failures(slot.steps, routeReplies(slot, result)).map(({ step }) => step);
}

function nftAccepted(step: PlanStep, first: number, result: NetnsResult, log: Log): boolean {
  if (step.action.do !== "nft") return true;
  const { requests, refused } = step.action;
  if (result.errno === 0) {
    const bad = repliesOf(result, first, requests).find((reply) => reply.errno !== 0 || reply.missing);
    if (bad === undefined) return true;
    log.warn({ step: step.name, errno: bad.errno, kernel: bad.kernelText }, refused);
    return false;
  }
  log.warn({ step: step.name, errno: result.errno }, refused);
  return false;
}

/** Repeats what failed as long as the first failure is EBUSY: what depends on it failed with it. */
async function settleRoutes(
  steps: readonly RouteStep[],
  replies: readonly NetlinkReply[],
  socket: NetlinkSocket,
): Promise<void> {
  let failed = failures(steps, replies);
  for (let attempt = 1; failed.length > 0; attempt++) {
    const [first] = failed;
    if (first === undefined) return;
    if (first.reply.errno !== Errno.EBUSY || attempt > BUSY_ATTEMPTS) {
      const { errno, missing, kernelText } = first.reply;
      throw new StepError(
        first.step,
        new NetlinkError(first.request.what, missing && errno === 0 ? Errno.ECANCELED : errno, kernelText),
        failed.map(({ step }) => step),
      );
    }
    await delay(BUSY_DELAY_MS);
    const again = failed;
    failed = failures(again, await socket.exchange(again.map(({ request }) => request)));
  }
}

function failures(
  steps: readonly RouteStep[],
  replies: readonly NetlinkReply[],
): (RouteStep & { reply: NetlinkReply })[] {
  return steps.flatMap((entry, i) => {
    const reply = replies[i];
    if (reply === undefined || (reply.errno === 0 && !reply.missing)) return [];
    const { action } = entry.step;
    const tolerated = action.do === "route" && (action.tolerate ?? []).includes(reply.errno);
    return tolerated ? [] : [{ ...entry, reply }];
  });
}

function collectTaps(
  slots: readonly Slot[],
  results: readonly NetnsResult[],
): Map<string, readonly number[]> {
  const taps = new Map<string, readonly number[]>();
  for (const slot of slots) {
    if (slot.kind !== "tap") continue;
    const { action } = slot.step;
    if (action.do !== "tap" && action.do !== "macvtap") continue;
    const fds = slot.opens.flatMap((at) => results[at]?.fd ?? []);
    taps.set(action.tap.name, fds);
  }
  return taps;
}

async function doOtherwise(
  refused: readonly PlanStep[],
  netnsFd: number,
  socket: NetlinkSocket,
  log: Log,
): Promise<void> {
  for (const step of refused) {
    if (step.action.do !== "nft") continue;
    try {
      await executePlan({ steps: step.action.otherwise }, netnsFd, socket, log);
    } catch (error) {
      const name = step.name;
      log.warn(
        { step: name, errno: errnoOf(error), err: error },
        `cannot replace ${name}: nothing guards the pod's addresses`,
      );
    }
  }
}
