/** Policy routing rules: struct fib_rule_hdr (12 bytes, laid out as rtmsg) and FRA_*, linux/fib_rules.h. */
import { attrBytes, attrString, attrU32, concat, parseAttributes, readString, readU32 } from "./attribute.ts";
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
