/** The mirred action: redirects or copies a frame to another interface. struct tc_mirred, linux/tc_act/tc_mirred.h. */
import {
  attrBytes,
  attrPlainNest,
  attrString,
  listAttributes,
  nested,
  parseAttributes,
  readString,
  viewOf,
} from "./attribute.ts";
import { parseStats, type TcStats } from "./traffic-control.ts";

/** TCA_EGRESS_REDIR and its sisters. */
export const MirredAction = {
  EgressRedirect: 1,
  EgressMirror: 2,
  IngressRedirect: 3,
  IngressMirror: 4,
} as const;
/** TC_ACT_*, linux/pkt_cls.h. */
export const TcAction = { Ok: 0, Shot: 2, Pipe: 3, Stolen: 4, Redirect: 7, Unspec: -1 } as const;

const TcaAct = { Kind: 1, Options: 2, Stats: 4 } as const;
const TCA_MIRRED_PARMS = 2;
/** struct tc_mirred. */
const TC_MIRRED = 28;

export interface Mirred {
  readonly eaction: number;
  /** TC_ACT_* */
  readonly action: number;
  readonly index: number;
}

export interface FilterAction {
  readonly kind: string;
  readonly mirred: Mirred | undefined;
  readonly stats: TcStats | undefined;
}

/** Action list (the value of TCA_U32_ACT) with one mirred in slot 1. */
export function encodeMirred(mirred: Mirred): Uint8Array {
  const parms = new Uint8Array(TC_MIRRED);
  const view = viewOf(parms);
  view.setInt32(8, mirred.action, true);
  view.setInt32(20, mirred.eaction, true);
  view.setUint32(24, mirred.index, true);
  const action = [
    attrString(TcaAct.Kind, "mirred"),
    attrPlainNest(TcaAct.Options, attrBytes(TCA_MIRRED_PARMS, parms)),
  ];
  return attrPlainNest(1, ...action);
}

/** What the kernel reports of an action list. */
export function parseActions(value: Uint8Array | undefined): FilterAction[] {
  if (value === undefined) return [];
  return listAttributes(value).map(({ value: entry }) => {
    const attributes = parseAttributes(entry);
    const parms = nested(attributes, TcaAct.Options)?.get(TCA_MIRRED_PARMS);
    return {
      kind: readString(attributes, TcaAct.Kind) ?? "",
      mirred: parms === undefined || parms.length < TC_MIRRED ? undefined : parseMirred(parms),
      stats: parseStats(nested(attributes, TcaAct.Stats)),
    };
  });
}

function parseMirred(parms: Uint8Array): Mirred {
  const view = viewOf(parms);
  return {
    action: view.getInt32(8, true),
    eaction: view.getInt32(20, true),
    index: view.getUint32(24, true),
  };
}
