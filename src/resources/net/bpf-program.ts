/**
 * The programs of the ebpf model, assembled here. An instruction (struct bpf_insn, linux/bpf.h) is 8 bytes: u8 opcode,
 * u8 destination register | source register << 4, s16 offset, s32 immediate. A jump's offset counts from the next
 * instruction. Register 1 holds the context on entry and the first argument of a call, 0 the result, 6 to 9 survive calls.
 */

/** BPF_PROG_TYPE_SCHED_CLS, linux/bpf.h. */
export const BPF_PROG_TYPE_SCHED_CLS = 3;

/** Opcodes, linux/bpf.h and linux/bpf_common.h: class | source or size | operation. */
const Op = {
  MovImmediate: 0xb7,
  MovRegister: 0xbf,
  LoadWord: 0x61,
  StoreDouble: 0x7b,
  JumpLessImmediate: 0xa5,
  Call: 0x85,
  Exit: 0x95,
} as const;

/** Helper numbers, linux/bpf.h __BPF_FUNC_MAPPER. */
const Helper = { Redirect: 23, PullData: 39 } as const;

/** Offsets in struct __sk_buff, linux/bpf.h. */
const Skb = { Length: 0, Timestamp: 152 } as const;

/** TC_ACT_SHOT. */
const TC_ACT_SHOT = 2;

/**
 * Bytes of a frame made contiguous before it leaves: Ethernet with two tags (22), IPv6 (40), TCP with all options (60)
 * and some room. Some drivers drop frames whose headers lie in page fragments.
 */
const PULLED_HEADERS = 134;

interface Instruction {
  readonly op: number;
  readonly dst?: number;
  readonly src?: number;
  readonly offset?: number;
  readonly immediate?: number;
}

/** The bytes of a program. */
export function assemble(instructions: readonly Instruction[]): Uint8Array {
  const out = new Uint8Array(instructions.length * 8);
  const view = new DataView(out.buffer);
  for (const [i, instruction] of instructions.entries()) {
    view.setUint8(i * 8, instruction.op);
    view.setUint8(i * 8 + 1, (instruction.dst ?? 0) | ((instruction.src ?? 0) << 4));
    view.setInt16(i * 8 + 2, instruction.offset ?? 0, true);
    view.setInt32(i * 8 + 4, instruction.immediate ?? 0, true);
  }
  return out;
}

/**
 * Sends every frame out of interface `index`: headers made contiguous, the receive timestamp cleared (a root qdisc
 * such as fq takes it for a departure time and drops what lies beyond its horizon).
 */
export function redirectProgram(index: number): Uint8Array {
  return assemble([
    { op: Op.MovRegister, dst: 6, src: 1 },
    { op: Op.LoadWord, dst: 2, src: 6, offset: Skb.Length },
    { op: Op.JumpLessImmediate, dst: 2, offset: 1, immediate: PULLED_HEADERS },
    { op: Op.MovImmediate, dst: 2, immediate: PULLED_HEADERS },
    { op: Op.MovRegister, dst: 1, src: 6 },
    { op: Op.Call, immediate: Helper.PullData },
    { op: Op.MovImmediate, dst: 2, immediate: 0 },
    { op: Op.StoreDouble, dst: 6, src: 2, offset: Skb.Timestamp },
    { op: Op.MovImmediate, dst: 1, immediate: index },
    { op: Op.MovImmediate, dst: 2, immediate: 0 },
    { op: Op.Call, immediate: Helper.Redirect },
    { op: Op.Exit },
  ]);
}

/** Drops every frame. */
export function dropProgram(): Uint8Array {
  return assemble([{ op: Op.MovImmediate, dst: 0, immediate: TC_ACT_SHOT }, { op: Op.Exit }]);
}
