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

  constructor(step: PlanStep, cause: unknown) {
    super("ERR_HOST", `cannot set up ${step.name}`, { cause, fields: { step: step.name } });
    this.step = step;
  }
}

export interface Executed {
  /** Descriptors of each tap by name, one a queue; the caller closes them. */
  readonly tapFds: ReadonlyMap<string, readonly number[]>;
  /** Names of steps that were refused and replaced or passed over. */
  readonly refused: readonly string[];
}

/** Where in the list of operations the answer for some steps is. */
type Slot =
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

/**
 * @param socket a NETLINK_ROUTE socket in the namespace.
 * @throws StepError for the first step that failed; descriptors are closed then, but nothing is undone.
 */
export async function executePlan(
  plan: Pick<WiringPlan, "steps">,
  netnsFd: number,
  socket: NetlinkSocket,
  log: Log,
): Promise<Executed> {
  const programs: number[] = [];
  let results: NetnsResult[] = [];
  try {
    const list = new OperationList(socket, programs);
    for (const step of plan.steps) list.add(step);
    const { operations, slots } = list.finish();
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
    for (const fd of programs) closeFd(fd);
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
  for (const slot of slots) {
    if (slot.kind === "tap") {
      const failed = results.slice(slot.from, slot.to).find((result) => result.errno !== 0);
      if (failed !== undefined)
        throw new StepError(slot.step, new NetlinkError("opening the tap", failed.errno));
      continue;
    }
    const result = results[slot.at];
    if (result === undefined) continue;
    if (slot.kind === "sysctl") {
      if (result.errno !== 0 && result.errno !== Errno.ENOENT) {
        log.warn({ step: slot.step.name, errno: result.errno }, `cannot set up ${slot.step.name}`);
      }
    } else if (slot.kind === "nft") {
      if (!nftAccepted(slot.step, slot.first, result, log)) refused.push(slot.step);
    } else {
      const requests = slot.steps.map(({ request }) => request);
      await settleRoutes(slot.steps, repliesOf(result, slot.first, requests), socket);
    }
  }
  return refused;
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
