/**
 * The wiring of a pod's network as data: steps to be done, each with its undo. A plan is made from a state that was
 * read, its undo part goes to the journal before the first step, one executor does it (execute.ts) and one undoes it
 * (undo.ts), also in another process that has nothing but the journal.
 */
import type { NetlinkRequest } from "../../netlink/index.ts";
import type { NetnsIdentity } from "./netns.ts";
import type { TapQueues } from "./tap-device.ts";

/** How frames get from the pod's interface to the guest; see docs/networking.md. */
export type WiringModel = "tcfilter" | "ebpf" | "macvtap";
export type NetworkModel = WiringModel | "none";

export type PlanAction =
  /** Creates a tap and opens its queues. */
  | { readonly do: "tap"; readonly tap: TapQueues }
  /** Opens the queues of a macvtap that an earlier step created. */
  | { readonly do: "macvtap"; readonly tap: TapQueues }
  /** Writes /proc/sys/net/<key> inside the namespace; one that does not exist is passed over. */
  | { readonly do: "sysctl"; readonly key: string; readonly value: string }
  /** An rtnetlink change. EBUSY is retried; `tolerate` are errno that mean "is so already". */
  | { readonly do: "route"; readonly request: NetlinkRequest; readonly tolerate?: readonly number[] }
  /** A direct-action filter; the program is loaded just before. */
  | {
      readonly do: "bpf-filter";
      readonly program: Uint8Array;
      readonly programName: string;
      readonly index: number;
      readonly parent: number;
      readonly preference: number;
      readonly label: string;
    }
  /** An nf_tables batch. Where the kernel refuses it, the steps `otherwise` are done after all others, best effort. */
  | {
      readonly do: "nft";
      readonly requests: readonly NetlinkRequest[];
      /** What the refusal means, for the warning. */
      readonly refused: string;
      readonly otherwise: readonly PlanStep[];
    };

/** Idempotent: what is gone already, or was never made, is success. JSON. */
export type UndoAction =
  /** Our filters at one preference; only when `target` (ifindex, or program name) says that they are ours. */
  | {
      readonly undo: "filter";
      readonly index: number;
      readonly parent: number;
      readonly preference: number;
      readonly kind: "u32" | "bpf";
      readonly target: number | string;
    }
  /** The ingress or clsact qdisc that we added, unless somebody else's filters are in it. */
  | { readonly undo: "qdisc"; readonly index: number; readonly kind: string }
  | { readonly undo: "link"; readonly index: number; readonly name: string; readonly kind: "tun" | "macvtap" }
  | { readonly undo: "nft-table"; readonly name: string }
  | { readonly undo: "sysctl"; readonly key: string; readonly value: string }
  /** rtnetlink changes that put things of interface `index` back, in order; nothing when it is gone. */
  | { readonly undo: "requests"; readonly index: number; readonly requests: readonly SavedRequest[] };

/** A NetlinkRequest with its payload in base64. */
export interface SavedRequest {
  readonly type: number;
  readonly flags: number;
  readonly payload: string;
  readonly what: string;
}

export interface PlanStep {
  /** "the guard chains", for errors and the log. */
  readonly name: string;
  readonly action: PlanAction;
  readonly undo?: UndoAction;
  /** The tap that it is for. */
  readonly nic?: string;
}

export interface PlannedNic {
  /** In the pod's namespace. */
  readonly ifname: string;
  readonly tap: TapQueues;
  readonly mac: string;
  readonly mtu: number;
}

export interface WiringPlan {
  readonly model: WiringModel;
  readonly nics: readonly PlannedNic[];
  readonly steps: readonly PlanStep[];
}

/** What goes to the journal: enough to undo the plan, however much of it was done. JSON. */
export interface NetUndoRecord {
  readonly version: 1;
  readonly netns: NetnsIdentity;
  readonly model: WiringModel;
  /** In the order of the steps; undone from the last to the first. */
  readonly undo: readonly UndoAction[];
}

export function undoRecordOf(plan: WiringPlan, netns: NetnsIdentity): NetUndoRecord {
  return {
    version: 1,
    netns: { path: netns.path, device: netns.device, inode: netns.inode },
    model: plan.model,
    undo: ordered(plan.steps.flatMap(undoActions)),
  };
}

/** What undoes the steps of one tap. */
export function undoOfNic(plan: WiringPlan, tap: string): UndoAction[] {
  return ordered(plan.steps.filter((step) => step.nic === tap).flatMap(undoActions));
}

/** Filters last, so that they are undone first: a qdisc is ours to remove only when it is empty. */
function ordered(actions: readonly UndoAction[]): UndoAction[] {
  const isFilter = ({ undo }: UndoAction) => undo === "filter";
  return [...actions.filter((action) => !isFilter(action)), ...actions.filter(isFilter)];
}

function undoActions(step: PlanStep): readonly UndoAction[] {
  const own = step.undo === undefined ? [] : [step.undo];
  return step.action.do === "nft" ? [...own, ...step.action.otherwise.flatMap(undoActions)] : own;
}

export function saveRequest(request: NetlinkRequest): SavedRequest {
  return { ...request, payload: Buffer.from(request.payload).toString("base64") };
}

export function loadRequest(saved: SavedRequest): NetlinkRequest {
  return { ...saved, payload: new Uint8Array(Buffer.from(saved.payload, "base64")) };
}
