/** From interfaces to open taps: plans, journals and executes, trying another model where the kernel refuses one. */
import { errnoOf, SandboxError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { closeFd } from "../../native/fd.ts";
import {
  dumpFilters,
  type Filter,
  type Link,
  type NetlinkSocket,
  parseFilter,
  TC_CLSACT_IN,
  TC_INGRESS_HANDLE,
  TC_INGRESS_PARENT,
} from "../../netlink/index.ts";
import { type Executed, executePlan, type PreparedPlan, preparePlan, StepError } from "./execute.ts";
import type { Netns } from "./netns.ts";
import {
  type NetUndoRecord,
  type NetworkModel,
  undoRecordOf,
  type WiringModel,
  type WiringPlan,
} from "./plan.ts";
import { chooseMacvtapIndex, planMacvtap } from "./plan-macvtap.ts";
import { planRedirect } from "./plan-redirect.ts";
import { type PodState, rereadPodState, TAP_NAME, tapName } from "./pod-state.ts";
import { undoInNetns } from "./undo.ts";
import { openVhost, VHOST_NET, type VhostMode } from "./vhost.ts";

export interface AttachOptions {
  readonly netnsPath: string;
  readonly model: NetworkModel;
  /** Queue pairs of each NIC: the number of vCPUs; capped at MAX_QUEUES. */
  readonly queues: number;
  readonly vhost: VhostMode;
  readonly log: Log;
  /**
   * Writes a record for undoPodNetwork() where it survives this process; called before the first change it covers.
   * @returns what notes that the record has been undone, for a wiring that is tried again.
   */
  readonly journal: (record: NetUndoRecord) => (() => void) | undefined;
}

/** More queues than this cost memory and vectors without a gain for one pod. */
export const MAX_QUEUES = 8;

/** What to try when the kernel refuses a model. */
const FALLBACK: Readonly<Record<WiringModel, WiringModel | undefined>> = {
  ebpf: "tcfilter",
  tcfilter: "macvtap",
  macvtap: undefined,
};
/** Errno by which a kernel says that it lacks a classifier, an action or a kind of link, or forbids bpf(2). */
const UNSUPPORTED = new Set(["ENOENT", "EOPNOTSUPP", "EPROTONOSUPPORT", "EPERM", "ENOSYS"]);
/** Errno that mean that somebody changed the namespace between reading and wiring. */
const CONFLICT = new Set(["EEXIST", "EBUSY", "ENODEV"]);
const CONFLICT_ATTEMPTS = 3;

/** Where and how to wire. */
export interface WiringContext {
  readonly options: AttachOptions;
  readonly netns: Netns;
  readonly socket: NetlinkSocket;
  readonly signal: AbortSignal;
  /** executePlan, or what a test puts in its place to refuse a step. */
  readonly execute?: typeof executePlan;
}

/** A plan for the namespace as it was read, ready to be executed. Ends with wireLinks() or prepared.release(). */
export interface ReadyPlan {
  readonly plan: WiringPlan;
  readonly links: readonly Link[];
  readonly prepared: PreparedPlan;
}

/** Interfaces that are wired. The descriptors are the caller's. */
export interface Wired {
  readonly plan: WiringPlan;
  /** The state that was wired: before any change. */
  readonly state: PodState;
  readonly links: readonly Link[];
  /** By name of the tap. */
  readonly tapFds: ReadonlyMap<string, readonly number[]>;
  readonly vhostFds: ReadonlyMap<string, readonly number[]>;
  /** Notes that all of it has been undone (AttachOptions, journal). */
  readonly undone: (() => void) | undefined;
}

/**
 * Plans the wiring of the interfaces that `choose` picks from the state, without changing anything.
 * @returns undefined when it picks none.
 * @throws StepError for a program that the kernel refused; SandboxError ERR_EXHAUSTED as planRedirect() does.
 */
export async function planLinks(
  queues: number,
  socket: NetlinkSocket,
  state: PodState,
  model: WiringModel,
  choose: (state: PodState) => Link[],
): Promise<ReadyPlan | undefined> {
  const links = choose(state);
  if (links.length === 0) return undefined;
  const plan = await makePlan(model, state, links, queues, socket);
  return { plan, links, prepared: preparePlan(plan, socket) };
}

/**
 * Wires the interfaces that `choose` picks from the state.
 * @param ready planLinks() of this state and model.
 * @returns undefined when it picks none.
 * @throws SandboxError ERR_HOST with the step that the kernel refused; everything is undone then.
 */
export async function wireLinks(
  context: WiringContext,
  first: PodState,
  wanted: WiringModel,
  choose: (state: PodState) => Link[],
  ready?: ReadyPlan,
): Promise<Wired | undefined> {
  const { options, socket, signal } = context;
  let state = first;
  let model = wanted;
  let planned = ready;
  for (let conflicts = 0; ; ) {
    const links = planned?.links ?? choose(state);
    if (links.length === 0) return undefined;
    try {
      const plan = planned?.plan ?? (await makePlan(model, state, links, options.queues, socket));
      return await wireOnce(context, plan, state, links, planned?.prepared);
    } catch (error) {
      if (!(error instanceof StepError)) throw error;
      const errno = errnoOf(error) ?? "";
      const next = FALLBACK[model];
      if (isRefusedModel(error, errno) && next !== undefined) {
        options.log.warn(
          { err: error, step: error.step.name },
          `this kernel refuses the network model ${model}; using ${next} instead`,
        );
        model = next;
      } else if (CONFLICT.has(errno) && ++conflicts < CONFLICT_ATTEMPTS) {
        options.log.debug({ err: error }, "the pod's network changed while it was wired; trying again");
      } else {
        throw error;
      }
    } finally {
      planned?.prepared.release();
      planned = undefined;
    }
    signal.throwIfAborted();
    state = await rereadPodState(socket);
  }
}

/** Only steps that need the model's own kernel parts tell that the kernel lacks them. */
function isRefusedModel(error: StepError, errno: string): boolean {
  const { action } = error.step;
  return (
    UNSUPPORTED.has(errno) && (action.do === "bpf-filter" || action.do === "route" || action.do === "macvtap")
  );
}

async function wireOnce(
  context: WiringContext,
  plan: WiringPlan,
  state: PodState,
  links: readonly Link[],
  prepared: PreparedPlan | undefined,
): Promise<Wired> {
  const { options, netns, socket, signal, execute } = context;
  let executed: Executed | undefined;
  const vhostFds = new Map<string, readonly number[]>();
  const record = undoRecordOf(plan, netns);
  const undone = options.journal(record);
  try {
    const executing =
      execute === undefined
        ? executePlan(plan, netns.fd, socket, options.log, prepared)
        : execute(plan, netns.fd, socket, options.log);
    // The kernel wires on a thread meanwhile.
    const opening = openAllVhost(options, plan, vhostFds);
    executed = await executing;
    if (opening !== undefined) throw opening.error;
    signal.throwIfAborted();
    return { plan, state, links, tapFds: executed.tapFds, vhostFds, undone };
  } catch (error) {
    closeAll(executed?.tapFds ?? new Map(), vhostFds);
    // What the kernel refused was not made by us: where it exists already, it is somebody else's.
    const notMade = error instanceof StepError ? error.notMade : [];
    await undoInNetns(
      record.undo.filter((action) => !notMade.some((step) => step.undo === action)),
      netns,
    );
    undone?.();
    throw error;
  }
}

/** @param fds gets what was opened. @returns what openVhost() threw. */
function openAllVhost(
  options: AttachOptions,
  plan: WiringPlan,
  fds: Map<string, readonly number[]>,
): { readonly error: unknown } | undefined {
  try {
    for (const { tap } of plan.nics)
      fds.set(
        tap.name,
        openVhost(options.vhost, tap.queues, (error) => warnOfVhost(options, error)),
      );
    return undefined;
  } catch (error) {
    return { error };
  }
}

/** Pods that were told; not again for each of their NICs. */
const warned = new WeakSet<AttachOptions>();

function warnOfVhost(options: AttachOptions, error: unknown): void {
  if (warned.has(options)) return;
  warned.add(options);
  options.log.warn(
    { errno: errnoOf(error), path: VHOST_NET },
    "no vhost-net on this host: QEMU moves the pod's frames itself",
  );
}

function closeAll(...maps: ReadonlyMap<string, readonly number[]>[]): void {
  for (const map of maps) for (const fds of map.values()) for (const fd of fds) closeFd(fd);
}

/** The ordinals of our taps in the namespace. */
export function takenOrdinals(state: PodState): number[] {
  return state.links.flatMap((link) => {
    const match = TAP_NAME.exec(link.name);
    return match === null ? [] : [Number(match[1])];
  });
}

async function makePlan(
  model: WiringModel,
  state: PodState,
  links: readonly Link[],
  queues: number,
  socket: NetlinkSocket,
): Promise<WiringPlan> {
  const capped = Math.max(1, Math.min(queues, MAX_QUEUES));
  const lastIndex = Math.max(...state.links.map((link) => link.index));
  const firstOrdinal = Math.max(-1, ...takenOrdinals(state)) + 1;
  const tapOf = (i: number) => ({
    name: tapName(firstOrdinal + i),
    index: model === "macvtap" ? chooseMacvtapIndex() : lastIndex + 1 + i,
    queues: capped,
  });
  if (model === "macvtap") {
    return planMacvtap(
      state,
      links.map((link, i) => ({ link, tap: tapOf(i) })),
    );
  }
  const targets = links.map(async (link, i) => ({
    link,
    tap: tapOf(i),
    ...(await ingressOf(state, link, socket)),
  }));
  return planRedirect(model, await Promise.all(targets));
}

/** What is on the ingress side of the pod's interface already; almost always nothing, and then nothing is asked. */
async function ingressOf(state: PodState, link: Link, socket: NetlinkSocket) {
  const present = state.qdiscs.find(
    (qdisc) => qdisc.index === link.index && qdisc.parent === TC_INGRESS_PARENT,
  );
  if (present === undefined) return { present, foreign: [] };
  const parent = present.kind === "clsact" ? TC_CLSACT_IN : TC_INGRESS_HANDLE;
  const messages = await socket.dump(dumpFilters(link.index, parent));
  return { present, foreign: messages.map((message): Filter => parseFilter(message.payload)) };
}

/** @throws SandboxError ERR_ALREADY_EXISTS when a tap of ours is in the namespace. */
export function refuseTaken(state: PodState): void {
  const taken = state.links.find((link) => TAP_NAME.test(link.name));
  if (taken === undefined) return;
  throw new SandboxError(
    "ERR_ALREADY_EXISTS",
    `another microVM is attached to this network namespace: it has the interface ${taken.name}`,
  );
}
