/**
 * The program that gives every TCP connection which arrives in a namespace, whatever its port, to one listening socket:
 * type sk_lookup (Linux 5.9), run when the kernel looks for a listener. The connection keeps its destination, so the
 * listener learns it from getsockname. Documentation/bpf/prog_sk_lookup.rst.
 */
import { viewOf } from "../../netlink/attribute.ts";
import { assemble } from "./bpf-program.ts";

/** linux/bpf.h. */
export const BPF_PROG_TYPE_SK_LOOKUP = 30;
export const BPF_SK_LOOKUP = 36;
export const BPF_MAP_CREATE = 0;
export const BPF_LINK_CREATE = 28;
const BPF_MAP_TYPE_SOCKMAP = 15;

/** Opcodes, linux/bpf.h and linux/bpf_common.h. */
const Op = {
  MovImmediate: 0xb7,
  MovRegister: 0xbf,
  AddImmediate: 0x07,
  LoadWord: 0x61,
  StoreImmediateWord: 0x62,
  LoadImmediate64: 0x18,
  JumpEqualImmediate: 0x15,
  JumpNotEqualImmediate: 0x55,
  Call: 0x85,
  Exit: 0x95,
} as const;
/** BPF_PSEUDO_MAP_FD: the immediate of a 64-bit load is a map's descriptor. */
const PSEUDO_MAP_FD = 1;
const Helper = { MapLookup: 1, SkRelease: 86, SkAssign: 124 } as const;
/** Offset of `protocol` in struct bpf_sk_lookup. */
const PROTOCOL = 12;
const IPPROTO_TCP = 6;
/** SK_PASS: go on, with the assigned socket or by the ordinary rules. */
const SK_PASS = 1;

/** Attributes of BPF_MAP_CREATE for a map of one socket. */
export function socketMapAttributes(): Uint8Array {
  const attributes = new Uint8Array(20);
  const view = viewOf(attributes);
  view.setUint32(0, BPF_MAP_TYPE_SOCKMAP, true);
  view.setUint32(4, 4, true); // key: u32
  view.setUint32(8, 8, true); // value: a descriptor as u64
  view.setUint32(12, 1, true); // entries
  return attributes;
}

/** Attributes of BPF_LINK_CREATE: the link, and with it the program's effect, ends with the last descriptor of it. */
export function lookupLinkAttributes(programFd: number, netnsFd: number): Uint8Array {
  const attributes = new Uint8Array(16);
  const view = viewOf(attributes);
  view.setUint32(0, programFd, true);
  view.setUint32(4, netnsFd, true);
  view.setUint32(8, BPF_SK_LOOKUP, true);
  return attributes;
}

/** All TCP goes to the socket at key 0 of the map; without one, and for all else, the ordinary rules hold. */
export function lookupProgram(mapFd: number): Uint8Array {
  return assemble([
    { op: Op.MovRegister, dst: 6, src: 1 },
    { op: Op.LoadWord, dst: 2, src: 6, offset: PROTOCOL },
    { op: Op.JumpNotEqualImmediate, dst: 2, offset: 14, immediate: IPPROTO_TCP },
    { op: Op.StoreImmediateWord, dst: 10, offset: -4, immediate: 0 },
    { op: Op.LoadImmediate64, dst: 1, src: PSEUDO_MAP_FD, immediate: mapFd },
    { op: 0 }, // its second half
    { op: Op.MovRegister, dst: 2, src: 10 },
    { op: Op.AddImmediate, dst: 2, immediate: -4 },
    { op: Op.Call, immediate: Helper.MapLookup },
    { op: Op.JumpEqualImmediate, dst: 0, offset: 7, immediate: 0 },
    { op: Op.MovRegister, dst: 7, src: 0 },
    { op: Op.MovRegister, dst: 1, src: 6 },
    { op: Op.MovRegister, dst: 2, src: 7 },
    { op: Op.MovImmediate, dst: 3, immediate: 0 },
    { op: Op.Call, immediate: Helper.SkAssign },
    { op: Op.MovRegister, dst: 1, src: 7 },
    { op: Op.Call, immediate: Helper.SkRelease },
    { op: Op.MovImmediate, dst: 0, immediate: SK_PASS },
    { op: Op.Exit },
  ]);
}
