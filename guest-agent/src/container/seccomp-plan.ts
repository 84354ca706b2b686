/** Seccomp profiles of the OCI spec (config-linux.md "Seccomp") as rules for libseccomp. Pure. */
import { SandboxError } from "../../../src/base/errors.ts";
import type { SeccompArgument, SeccompSpec } from "./oci-spec.ts";

/** seccomp.h SCMP_ACT_*. The low 16 bits of ERRNO and TRACE are data. */
const ACTIONS: Readonly<Record<string, number>> = {
  SCMP_ACT_KILL: 0x00000000,
  SCMP_ACT_KILL_THREAD: 0x00000000,
  SCMP_ACT_KILL_PROCESS: 0x80000000,
  SCMP_ACT_TRAP: 0x00030000,
  SCMP_ACT_ERRNO: 0x00050000,
  SCMP_ACT_TRACE: 0x7ff00000,
  SCMP_ACT_LOG: 0x7ffc0000,
  SCMP_ACT_ALLOW: 0x7fff0000,
};

/** seccomp.h enum scmp_compare. */
const OPERATORS: Readonly<Record<string, number>> = {
  SCMP_CMP_NE: 1,
  SCMP_CMP_LT: 2,
  SCMP_CMP_LE: 3,
  SCMP_CMP_EQ: 4,
  SCMP_CMP_GE: 5,
  SCMP_CMP_GT: 6,
  SCMP_CMP_MASKED_EQ: 7,
};

/** linux/seccomp.h SECCOMP_FILTER_FLAG_*; TSYNC is meaningless for a process of one thread, and accepted. */
const FLAGS: Readonly<Record<string, number>> = {
  SECCOMP_FILTER_FLAG_TSYNC: 0x1,
  SECCOMP_FILTER_FLAG_LOG: 0x2,
  SECCOMP_FILTER_FLAG_SPEC_ALLOW: 0x4,
};

const EPERM = 1;
const ENOSYS = 38;

export interface SeccompRule {
  readonly names: readonly string[];
  readonly action: number;
  /** Flat, as sys.seccompAddRule takes them. */
  readonly comparisons: readonly (number | bigint)[];
}

export interface SeccompPlan {
  readonly defaultAction: number;
  /** libseccomp's names: "x86_64". */
  readonly architectures: readonly string[];
  readonly flags: number;
  readonly rules: readonly SeccompRule[];
}

/** @throws ERR_SPEC for unknown names, ERR_UNSUPPORTED for user notification. */
export function planSeccomp(spec: SeccompSpec): SeccompPlan {
  if (spec.listenerPath !== "" || spec.syscalls.some(({ action }) => action === "SCMP_ACT_NOTIFY")) {
    throw new SandboxError(
      "ERR_UNSUPPORTED",
      "linux.seccomp: SCMP_ACT_NOTIFY and listenerPath are not supported",
    );
  }
  const defaultAction = actionNumber(spec.defaultAction, spec.defaultErrnoRet);
  const rules = spec.syscalls.flatMap(({ names, action, errnoRet, args }) => {
    const number = actionNumber(action, errnoRet);
    // libseccomp refuses a rule that says what happens anyway.
    if (number === defaultAction) return [];
    return splitComparisons(args).map((comparisons) => ({ names, action: number, comparisons }));
  });
  return {
    defaultAction,
    architectures: spec.architectures.map((name) => name.replace(/^SCMP_ARCH_/, "").toLowerCase()),
    flags: spec.flags.reduce((bits, name) => bits | known(FLAGS, name, "flag"), 0),
    rules,
  };
}

function actionNumber(name: string, errnoRet: number | undefined): number {
  const action = known(ACTIONS, name, "action");
  if (name === "SCMP_ACT_ERRNO" || name === "SCMP_ACT_TRACE") return action | ((errnoRet ?? EPERM) & 0xffff);
  return action;
}

function known(table: Readonly<Record<string, number>>, name: string, what: string): number {
  const value = table[name];
  if (value === undefined)
    throw new SandboxError("ERR_SPEC", `linux.seccomp: "${name}" is not a known ${what}`);
  return value;
}

/**
 * Conditions on different arguments must all hold: one rule. libseccomp takes one condition per argument; a profile
 * with several on the same one means alternatives, as runc has it: a rule each.
 */
function splitComparisons(args: readonly SeccompArgument[]): readonly (readonly (number | bigint)[])[] {
  const flat = args.map((arg) => [arg.index, known(OPERATORS, arg.op, "operator"), ...data(arg)]);
  const repeated = new Set(args.map(({ index }) => index)).size < args.length;
  return repeated ? flat : [flat.flat()];
}

function data({ op, value, valueTwo }: SeccompArgument): readonly bigint[] {
  // The C interface takes the bits; sign does not matter. MASKED_EQ: value is the mask, valueTwo what must remain.
  return op === "SCMP_CMP_MASKED_EQ"
    ? [BigInt.asIntN(64, value), BigInt.asIntN(64, valueTwo)]
    : [BigInt.asIntN(64, value), 0n];
}

/** True for a default action that answers a call with an error other than ENOSYS. */
export function isRefusal(action: number): boolean {
  return (action & 0xffff0000) === ACTIONS.SCMP_ACT_ERRNO && (action & 0xffff) !== ENOSYS;
}

// Classic BPF (linux/bpf_common.h, linux/seccomp.h struct seccomp_data: nr at 0, arch at 4).
const BPF_LD_W_ABS = 0x20;
const BPF_JEQ = 0x15;
const BPF_JGT = 0x25;
const BPF_RET = 0x06;
const AUDIT_ARCH_X86_64 = 0xc000003e;
/** Calls of the x32 interface carry this bit (asm/unistd.h); their numbers are no newer ones. */
const X32_BIT = 0x40000000;

/**
 * Puts a prologue before a filter that refuses what it does not name: system calls newer than every one it names get
 * ENOSYS, so that a C library that tries a new call first falls back instead of giving up on EPERM.
 */
export function answerNewerCalls(code: Uint8Array, newest: number): Uint8Array {
  if (newest < 0) return code;
  const prologue: readonly (readonly [op: number, yes: number, no: number, k: number])[] = [
    [BPF_LD_W_ABS, 0, 0, 4],
    [BPF_JEQ, 0, 4, AUDIT_ARCH_X86_64],
    [BPF_LD_W_ABS, 0, 0, 0],
    [BPF_JGT, 2, 0, X32_BIT - 1],
    [BPF_JGT, 0, 1, newest],
    [BPF_RET, 0, 0, 0x00050000 | ENOSYS],
  ];
  const result = new Uint8Array(prologue.length * 8 + code.length);
  const view = new DataView(result.buffer);
  prologue.forEach(([op, yes, no, k], index) => {
    view.setUint16(index * 8, op, true);
    view.setUint8(index * 8 + 2, yes);
    view.setUint8(index * 8 + 3, no);
    view.setUint32(index * 8 + 4, k, true);
  });
  result.set(code, prologue.length * 8);
  return result;
}
