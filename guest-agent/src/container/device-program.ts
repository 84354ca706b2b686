/** Device rules of the spec as an eBPF program (bpf_cgroup_dev_ctx of linux/bpf.h). Pure. */
import type { DeviceRule } from "./oci-spec.ts";

// linux/bpf.h: BPF_DEVCG_DEV_*, BPF_DEVCG_ACC_*.
const TYPES: Readonly<Record<string, number>> = { b: 1, c: 2, u: 2 };
const ACCESS: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 };
const ANY_ACCESS = 7;
/** No number, and what v1 writes as "*". */
const ANY = -1;

/** True when no rule is there, or the last word is "allow all". */
export function allowsEverything(rules: readonly DeviceRule[]): boolean {
  const last = rules.at(-1);
  return last === undefined || (last.allow && isForAll(last) && accessBits(last) === ANY_ACCESS);
}

const isForAll = ({ type, major, minor }: DeviceRule): boolean =>
  (type === "a" || type === "") && (major ?? ANY) < 0 && (minor ?? ANY) < 0;

function accessBits({ access }: DeviceRule): number {
  return access === "" ? ANY_ACCESS : [...access].reduce((bits, letter) => bits | (ACCESS[letter] ?? 0), 0);
}

// eBPF opcodes (Documentation/bpf/instruction-set.rst) and the registers of the program.
const LDX_MEM_W = 0x61;
const MOV32_REG = 0xbc;
const MOV64_IMM = 0xb7;
const MOV64_REG = 0xbf;
const AND32_IMM = 0x54;
const RSH32_IMM = 0x74;
const JEQ_IMM = 0x15;
const JNE_IMM = 0x55;
const JNE_REG = 0x5d;
const EXIT = 0x95;
const RESULT = 0;
const CONTEXT = 1;
/** The context is not needed after the loads. */
const SCRATCH = 1;
const REQUESTED = 2;
const KIND = 3;
const MAJOR = 4;
const MINOR = 5;

interface Instruction {
  readonly code: number;
  readonly to: number;
  readonly from: number;
  readonly offset: number;
  readonly immediate: number;
}

const op = (code: number, to: number, from: number, offset: number, immediate: number): Instruction => ({
  code,
  to,
  from,
  offset,
  immediate,
});

/**
 * The program: later rules win, so they are asked first; what no rule matches is denied. An allowing rule must cover
 * all of the requested access, a denying one any of it. Pure; 8 bytes per instruction, little-endian.
 */
export function assembleDeviceFilter(rules: readonly DeviceRule[]): Uint8Array {
  // Nothing may follow a rule that matches everything: the verifier refuses unreachable instructions.
  const asked = rules.toReversed();
  const final = asked.findIndex((rule) => isForAll(rule) && accessBits(rule) === ANY_ACCESS);
  const blocks = asked.slice(0, final < 0 ? asked.length : final + 1).flatMap(assembleRule);
  const denied = final < 0 ? [op(MOV64_IMM, RESULT, 0, 0, 0), op(EXIT, 0, 0, 0, 0)] : [];
  const program = [
    op(LDX_MEM_W, REQUESTED, CONTEXT, 0, 0),
    op(MOV64_REG, KIND, REQUESTED, 0, 0),
    op(AND32_IMM, KIND, 0, 0, 0xffff),
    op(RSH32_IMM, REQUESTED, 0, 0, 16),
    op(LDX_MEM_W, MAJOR, CONTEXT, 4, 0),
    op(LDX_MEM_W, MINOR, CONTEXT, 8, 0),
    ...blocks,
    ...denied,
  ];
  const bytes = new Uint8Array(program.length * 8);
  const view = new DataView(bytes.buffer);
  program.forEach(({ code, to, from, offset, immediate }, index) => {
    view.setUint8(index * 8, code);
    view.setUint8(index * 8 + 1, (from << 4) | to);
    view.setInt16(index * 8 + 2, offset, true);
    view.setInt32(index * 8 + 4, immediate, true);
  });
  return bytes;
}

/** Tests of one rule; each jumps behind the rule when it does not match. */
function assembleRule(rule: DeviceRule): readonly Instruction[] {
  const kind = TYPES[rule.type];
  const bits = accessBits(rule);
  const major = rule.major ?? ANY;
  const minor = rule.minor ?? ANY;
  // A placeholder offset: the distance is known when the rule is complete.
  const tests: Instruction[] = [];
  if (kind !== undefined) tests.push(op(JNE_IMM, KIND, 0, 0, kind));
  if (bits !== ANY_ACCESS) {
    tests.push(op(MOV32_REG, SCRATCH, REQUESTED, 0, 0), op(AND32_IMM, SCRATCH, 0, 0, bits));
    tests.push(rule.allow ? op(JNE_REG, SCRATCH, REQUESTED, 0, 0) : op(JEQ_IMM, SCRATCH, 0, 0, 0));
  }
  if (major >= 0) tests.push(op(JNE_IMM, MAJOR, 0, 0, major));
  if (minor >= 0) tests.push(op(JNE_IMM, MINOR, 0, 0, minor));
  const verdict = [op(MOV64_IMM, RESULT, 0, 0, rule.allow ? 1 : 0), op(EXIT, 0, 0, 0, 0)];
  const end = tests.length + verdict.length;
  const isJump = (code: number) => code === JNE_IMM || code === JNE_REG || code === JEQ_IMM;
  return [
    ...tests.map((test, index) => (isJump(test.code) ? { ...test, offset: end - index - 1 } : test)),
    ...verdict,
  ];
}
