/** The cls_bpf classifier in direct-action mode: TCA_BPF_*, linux/pkt_cls.h. */
import { type Attributes, attrString, attrU32, readString, readU32 } from "./attribute.ts";

const TcaBpf = { Fd: 6, Name: 7, Flags: 8, Tag: 10, Id: 11 } as const;
/** TCA_BPF_FLAG_ACT_DIRECT: the program's return value is the action. */
const BPF_DIRECT_ACTION = 1;

/** Options of a direct-action filter that runs the program `fd`. */
export function encodeBpfDirectAction(fd: number, name: string): Uint8Array[] {
  return [attrU32(TcaBpf.Fd, fd), attrString(TcaBpf.Name, name), attrU32(TcaBpf.Flags, BPF_DIRECT_ACTION)];
}

export interface BpfOptions {
  readonly name: string;
  readonly programId: number;
  readonly directAction: boolean;
}

export function parseBpf(options: Attributes): BpfOptions {
  return {
    name: readString(options, TcaBpf.Name) ?? "",
    programId: readU32(options, TcaBpf.Id) ?? 0,
    directAction: ((readU32(options, TcaBpf.Flags) ?? 0) & BPF_DIRECT_ACTION) !== 0,
  };
}
