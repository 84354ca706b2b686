import assert from "node:assert/strict";
import { test } from "node:test";
import { type AccelProbe, detectAccel } from "../../../src/hypervisor/accel.ts";

function host(modules: readonly string[], arch = "x64", errno?: string): AccelProbe {
  return {
    arch,
    openKvm: () => {
      if (errno !== undefined) throw Object.assign(new Error(`${errno}: /dev/kvm`), { code: errno });
    },
    hasModule: (name) => modules.includes(name),
  };
}

test("detectAccel() takes KVM only with a vendor module and without kvm_pvm", () => {
  const cases: [readonly string[], "kvm" | "tcg", RegExp][] = [
    [["kvm", "kvm_intel"], "kvm", /kvm_intel/],
    [["kvm", "kvm_amd"], "kvm", /kvm_amd/],
    [["kvm", "kvm_pvm"], "tcg", /kvm_pvm/],
    [["kvm", "kvm_intel", "kvm_pvm"], "tcg", /kvm_pvm/],
    [["kvm"], "tcg", /neither kvm_intel nor kvm_amd/],
    [[], "tcg", /neither/],
  ];
  for (const [modules, accel, reason] of cases) {
    const choice = detectAccel(host(modules));
    assert.equal(choice.accel, accel, modules.join());
    assert.match(choice.reason, reason);
  }
});

test("detectAccel() says why /dev/kvm cannot be opened, whatever modules there are", () => {
  for (const errno of ["ENOENT", "EACCES", "ENXIO"]) {
    assert.deepEqual(detectAccel(host(["kvm", "kvm_intel"], "x64", errno)), {
      accel: "tcg",
      reason: `/dev/kvm cannot be opened (${errno})`,
    });
  }
});

test("detectAccel() needs no vendor module where the architecture has none", () => {
  assert.equal(detectAccel(host([], "arm64")).accel, "kvm");
  assert.equal(detectAccel(host([], "arm64", "ENOENT")).accel, "tcg");
});
