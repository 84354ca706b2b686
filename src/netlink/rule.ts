/** Policy routing rules: struct fib_rule_hdr (12 bytes, laid out as rtmsg) and FRA_*, linux/fib_rules.h. */
import {
  attrBytes,
  attrString,
  attrU32,
  concat,
  headerView,
  parseAttributes,
  readString,
  readU32,
  viewOf,
} from "./attribute.ts";
import { AF_UNSPEC, formatIp, parseCidr } from "./ip-address.ts";
import { type NetlinkRequest, Nlm } from "./message.ts";

export const RTM_NEWRULE = 32;
export const RTM_DELRULE = 33;
export const RTM_GETRULE = 34;

const HEADER = 12;
const Fra = {
  Destination: 1,
  Source: 2,
  InInterface: 3,
  Priority: 6,
  Mark: 10,
  Table: 15,
  MarkMask: 16,
  OutInterface: 17,
} as const;

/** FR_ACT_TO_TBL: look up in `table`. */
export const FR_ACT_TO_TABLE = 1;

export interface Rule {
  readonly family: number;
  readonly priority: number;
  /** CIDR; empty for any. */
  readonly from: string;
  readonly to: string;
  readonly inInterface: string;
  readonly outInterface: string;
  readonly mark: number;
  readonly markMask: number;
  /** FR_ACT_* */
  readonly action: number;
  readonly table: number;
}

/** The message payload of RTM_NEWRULE or RTM_DELRULE. */
export function parseRule(payload: Uint8Array): Rule {
  headerView(payload, HEADER, "a routing rule");
  const attributes = parseAttributes(payload, HEADER);
  const prefix = (type: number, length: number) => {
    const address = attributes.get(type);
    return address === undefined ? "" : `${formatIp(address)}/${length}`;
  };
  return {
    family: payload[0] ?? 0,
    priority: readU32(attributes, Fra.Priority) ?? 0,
    from: prefix(Fra.Source, payload[2] ?? 0),
    to: prefix(Fra.Destination, payload[1] ?? 0),
    inInterface: readString(attributes, Fra.InInterface) ?? "",
    outInterface: readString(attributes, Fra.OutInterface) ?? "",
    mark: readU32(attributes, Fra.Mark) ?? 0,
    markMask: readU32(attributes, Fra.MarkMask) ?? 0,
    action: payload[7] ?? 0,
    table: readU32(attributes, Fra.Table) ?? payload[4] ?? 0,
  };
}

export function dumpRules(family: number = AF_UNSPEC): NetlinkRequest {
  const head = new Uint8Array(HEADER);
  head[0] = family;
  return { type: RTM_GETRULE, flags: Nlm.Dump, payload: head, what: "listing the routing rules" };
}

/** FIB_RULE_INVERT: the rule holds for what does not match. The other flags are the kernel's own. */
const FIB_RULE_INVERT = 2;
/** FRA_L3MDEV: the table is that of the VRF device that a packet belongs to. */
const FRA_L3MDEV = 19;
/** The rules that every kernel makes: priority and table (local, main, default). */
const OWN_RULES = new Map([
  [0, 255],
  [32_766, 254],
  [32_767, 253],
]);

/** Whether each kernel makes this rule (the payload of RTM_NEWRULE) by itself, or with a VRF device. */
export function isKernelRule(payload: Uint8Array): boolean {
  const { priority, table, from, to, inInterface, outInterface, mark, action } = parseRule(payload);
  const selects = `${from}${to}${inInterface}${outInterface}` !== "" || mark !== 0;
  if (!selects && action === FR_ACT_TO_TABLE && OWN_RULES.get(priority) === table) return true;
  return parseAttributes(payload, HEADER).has(FRA_L3MDEV);
}

/** The rule as a kernel listed it, for insertRule() and removeRule() there or in another kernel. */
export function portableRule(payload: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(payload);
  const view = viewOf(copy);
  view.setUint32(8, view.getUint32(8, true) & FIB_RULE_INVERT, true);
  return copy;
}

/** Adds what portableRule() gave; one that exists already gives EEXIST. */
export function insertRule(payload: Uint8Array): NetlinkRequest {
  const what = `adding the routing rule ${parseRule(payload).priority}`;
  return { type: RTM_NEWRULE, flags: Nlm.Create | Nlm.Exclusive, payload, what };
}

export function removeRule(payload: Uint8Array): NetlinkRequest {
  return {
    type: RTM_DELRULE,
    flags: 0,
    payload,
    what: `removing the routing rule ${parseRule(payload).priority}`,
  };
}

export function addRule(rule: Rule): NetlinkRequest {
  const head = new Uint8Array(HEADER);
  const parts: Uint8Array[] = [head];
  head[0] = rule.family;
  head[4] = rule.table < 256 ? rule.table : 0;
  head[7] = rule.action;
  if (rule.from !== "") {
    const { address, prefixLength } = parseCidr(rule.from);
    head[2] = prefixLength;
    parts.push(attrBytes(Fra.Source, address));
  }
  if (rule.to !== "") {
    const { address, prefixLength } = parseCidr(rule.to);
    head[1] = prefixLength;
    parts.push(attrBytes(Fra.Destination, address));
  }
  parts.push(attrU32(Fra.Priority, rule.priority), attrU32(Fra.Table, rule.table));
  if (rule.inInterface !== "") parts.push(attrString(Fra.InInterface, rule.inInterface));
  if (rule.outInterface !== "") parts.push(attrString(Fra.OutInterface, rule.outInterface));
  if (rule.mark !== 0) parts.push(attrU32(Fra.Mark, rule.mark));
  if (rule.markMask !== 0) parts.push(attrU32(Fra.MarkMask, rule.markMask));
  return {
    type: RTM_NEWRULE,
    flags: Nlm.Create | Nlm.Exclusive,
    payload: concat(...parts),
    what: `adding the routing rule ${rule.priority}`,
  };
}
