import assert from "node:assert/strict";
import { test } from "node:test";
import { planDevices, withGuestDevices, withoutHostDevices } from "../../../src/oci/devices.ts";
import type { OciSpec } from "../../../src/oci/spec.ts";

const block = { path: "/dev/xvda", type: "b", major: 8, minor: 16, fileMode: 0o660 };
const spec = (devices: object[], rules: object[] = []): OciSpec =>
  ({ linux: { devices, resources: { devices: rules, pids: { limit: 5 } } } }) as OciSpec;

test("planDevices() plans block devices and leaves what the guest's kernel has itself", () => {
  const fuse = { path: "/dev/fuse", type: "c", major: 10, minor: 229 };
  const rules = [
    { allow: false, access: "rwm" },
    { allow: true, type: "b", major: 8, minor: 16, access: "rwm" },
    { allow: true, type: "b", major: 8, minor: 17, access: "rwm" },
  ];
  assert.deepEqual(planDevices(spec([fuse, block], rules)), [
    { deviceIndex: 1, ruleIndexes: [1], major: 8, minor: 16, readonly: false, path: "/dev/xvda" },
  ]);
});

test("planDevices() takes a device that no rule lets write for read-only", () => {
  const rule = (access: string) => [{ allow: true, type: "b", major: 8, minor: 16, access }];
  assert.equal(planDevices(spec([block], rule("r")))[0]?.readonly, true);
  assert.equal(planDevices(spec([block], rule("rw")))[0]?.readonly, false);
  assert.equal(planDevices(spec([block]))[0]?.readonly, false);
});

test("planDevices() refuses a character device of the host by name", () => {
  assert.throws(() => planDevices(spec([{ path: "/dev/nvidia0", type: "c", major: 195, minor: 0 }])), {
    code: "ERR_UNSUPPORTED",
    message: /\/dev\/nvidia0 cannot be used in a virtual machine/,
  });
});

test("withGuestDevices() puts the guest's numbers into devices and rules, and nothing else", () => {
  const before = spec([block], [{ allow: true, type: "b", major: 8, minor: 16, access: "rw" }]);
  const after = withGuestDevices(before, planDevices(before), [{ major: 254, minor: 0 }]);
  assert.deepEqual(after.linux, {
    devices: [{ ...block, major: 254, minor: 0 }],
    resources: {
      devices: [{ allow: true, type: "b", major: 254, minor: 0, access: "rw" }],
      pids: { limit: 5 },
    },
  });
  assert.equal(before.linux?.devices?.[0]?.major, 8, "the given spec is not changed");
});

test("withoutHostDevices() drops the host's own list of devices, and only from a privileged container", () => {
  const fuse = { path: "/dev/fuse", type: "c", major: 10, minor: 229 };
  const all = [
    { path: "/dev/null", type: "c", major: 1, minor: 3 },
    { path: "/dev/autofs", type: "c", major: 10, minor: 235 },
    { path: "/dev/loop0", type: "b", major: 7, minor: 0 },
    fuse,
  ];
  const allowAll = { allow: true, access: "rwm" };
  assert.deepEqual(withoutHostDevices(spec(all, [allowAll])).linux?.devices, [all[0], fuse]);
  const unprivileged = spec(all, [{ allow: true, type: "b", major: 7, minor: 0, access: "rwm" }]);
  assert.equal(withoutHostDevices(unprivileged), unprivileged);
  const named = spec([block], [allowAll]);
  assert.equal(withoutHostDevices(named), named, "a disk given by name stays");
});
