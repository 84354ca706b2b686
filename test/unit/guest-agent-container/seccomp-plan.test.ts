import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeContainerSpec } from "../../../guest-agent/src/container/oci-spec.ts";
import { answerNewerCalls, isRefusal, planSeccomp } from "../../../guest-agent/src/container/seccomp-plan.ts";

function plan(seccomp: object) {
  const spec = decodeContainerSpec(JSON.stringify({ process: {}, linux: { seccomp } }));
  if (spec.linux.seccomp === undefined) throw new Error("no profile");
  return planSeccomp(spec.linux.seccomp);
}

test("actions carry their error number, EPERM by default", () => {
  const { defaultAction, rules } = plan({
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: 38,
    syscalls: [
      { names: ["a"], action: "SCMP_ACT_ALLOW" },
      { names: ["b"], action: "SCMP_ACT_ERRNO" },
      { names: ["c"], action: "SCMP_ACT_KILL_PROCESS" },
      { names: ["d"], action: "SCMP_ACT_TRACE", errnoRet: 7 },
    ],
  });
  assert.equal(defaultAction, 0x00050026);
  assert.deepEqual(
    rules.map(({ action }) => action),
    [0x7fff0000, 0x00050001, 0x80000000, 0x7ff00007],
  );
});

test("a rule that repeats the default is left out", () => {
  assert.deepEqual(
    plan({ defaultAction: "SCMP_ACT_ALLOW", syscalls: [{ names: ["a"], action: "SCMP_ACT_ALLOW" }] }).rules,
    [],
  );
});

test("architectures are libseccomp's names, flags are the kernel's bits", () => {
  const { architectures, flags } = plan({
    defaultAction: "SCMP_ACT_ALLOW",
    architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
    flags: ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
  });
  assert.deepEqual(architectures, ["x86_64", "aarch64"]);
  assert.equal(flags, 6);
});

const rule = (args: object[]) =>
  plan({
    defaultAction: "SCMP_ACT_ALLOW",
    syscalls: [{ names: ["a"], action: "SCMP_ACT_LOG", args }],
  }).rules.map(({ comparisons }) => comparisons);

test("conditions on different arguments are one rule, on the same argument alternatives", () => {
  const first = { index: 0, value: 1, op: "SCMP_CMP_EQ" };
  assert.deepEqual(rule([first, { index: 1, value: 2, op: "SCMP_CMP_GE" }]), [[0, 4, 1n, 0n, 1, 5, 2n, 0n]]);
  assert.deepEqual(rule([first, { index: 0, value: 2, op: "SCMP_CMP_EQ" }]), [
    [0, 4, 1n, 0n],
    [0, 4, 2n, 0n],
  ]);
  assert.deepEqual(rule([]), [[]]);
});

test("a masked comparison has its mask first", () => {
  assert.deepEqual(rule([{ index: 0, value: 2114060288, valueTwo: 5, op: "SCMP_CMP_MASKED_EQ" }]), [
    [0, 7, 2114060288n, 5n],
  ]);
});

test("what is not known is named", () => {
  assert.throws(() => plan({ defaultAction: "X" }), /"X" is not a known action/);
  assert.throws(() => rule([{ index: 0, value: 1, op: "Y" }]), /"Y" is not a known operator/);
  assert.throws(() => plan({ defaultAction: "SCMP_ACT_ALLOW", flags: ["Z"] }), /"Z" is not a known flag/);
  assert.throws(() => plan({ defaultAction: "SCMP_ACT_ALLOW", listenerPath: "/x" }), /not supported/);
});

test("only a refusal other than ENOSYS gets the prologue for newer calls", () => {
  assert.equal(isRefusal(0x00050001), true);
  assert.equal(isRefusal(0x00050026), false);
  assert.equal(isRefusal(0x7fff0000), false);
  assert.equal(isRefusal(0x80000000), false);
});

/** Interprets the few classic BPF instructions of the prologue. */
function run(code: Uint8Array, arch: number, nr: number): number {
  const view = new DataView(code.buffer, code.byteOffset, code.byteLength);
  let a = 0;
  for (let pc = 0; ; pc++) {
    const op = view.getUint16(pc * 8, true);
    const [yes, no, k] = [
      view.getUint8(pc * 8 + 2),
      view.getUint8(pc * 8 + 3),
      view.getUint32(pc * 8 + 4, true),
    ];
    if (op === 0x06) return k;
    if (op === 0x20) a = k === 4 ? arch : nr;
    else if (op === 0x15) pc += a === k ? yes : no;
    else if (op === 0x25) pc += a > k ? yes : no;
    else throw new Error(`instruction ${op}`);
  }
}

test("newer calls get ENOSYS, others the filter's answer", () => {
  const filter = new Uint8Array(8);
  new DataView(filter.buffer).setUint16(0, 0x06, true);
  new DataView(filter.buffer).setUint32(4, 0x00050001, true);
  const code = answerNewerCalls(filter, 450);
  const X86_64 = 0xc000003e;
  assert.equal(run(code, X86_64, 451), 0x00050026);
  assert.equal(run(code, X86_64, 450), 0x00050001);
  assert.equal(run(code, X86_64, 0), 0x00050001);
  assert.equal(run(code, X86_64, 0x40000000 + 5), 0x00050001, "x32");
  assert.equal(run(code, 0x40000003, 451), 0x00050001, "i386 has numbers of its own");
  assert.equal(answerNewerCalls(filter, -1), filter);
});
