/**
 * Seccomp filters: rules are worked out in seccomp-plan.ts and compiled to BPF by libseccomp; the program is kept as
 * bytes, made once per container and installed by each of its processes.
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import type { SeccompSpec } from "./oci-spec.ts";
import { answerNewerCalls, isRefusal, planSeccomp, type SeccompRule } from "./seccomp-plan.ts";

/** linux/seccomp.h: without meaning for a process of one thread, and refused beside some other flags. */
const SECCOMP_FILTER_FLAG_TSYNC = 0x1;

/** A compiled filter. */
export interface SeccompProgram {
  readonly code: Uint8Array;
  /** SECCOMP_FILTER_FLAG_*. */
  readonly flags: number;
}

/** @throws ERR_SPEC when libseccomp refuses the profile. */
export function compileSeccomp(spec: SeccompSpec): SeccompProgram {
  const plan = planSeccomp(spec);
  try {
    const filter = sys.seccompNew(plan.defaultAction);
    for (const name of plan.architectures) {
      if (!sys.seccompAddArch(filter, name)) {
        throw new SandboxError("ERR_SPEC", `linux.seccomp: the architecture "${name}" is not known`);
      }
    }
    const newest = addRules(filter, plan.rules);
    const code = new Uint8Array(sys.seccompExport(filter));
    return {
      code: isRefusal(plan.defaultAction) ? answerNewerCalls(code, newest) : code,
      flags: plan.flags & ~SECCOMP_FILTER_FLAG_TSYNC,
    };
  } catch (error) {
    if (error instanceof SandboxError) throw error;
    throw new SandboxError("ERR_SPEC", "linux.seccomp: the profile cannot be compiled", { cause: error });
  }
}

/** The highest native number among the system calls that the profile names; -1 when there is none. */
function addRules(filter: sys.SeccompFilter, rules: readonly SeccompRule[]): number {
  let newest = -1;
  for (const { names, action, comparisons } of rules) {
    for (const name of names) {
      const number = sys.seccompResolve(name);
      // A profile may name calls of newer kernels or other architectures.
      if (number === undefined) continue;
      sys.seccompAddRule(filter, action, number, comparisons);
      newest = Math.max(newest, number);
    }
  }
  return newest;
}
