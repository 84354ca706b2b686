import assert from "node:assert/strict";
import { test } from "node:test";
import { containerRole } from "../../../src/oci/annotations.ts";

test("containerRole() reads containerd's CRI annotations", () => {
  assert.deepEqual(
    containerRole({ "io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "s" }),
    { role: "sandbox" },
  );
  assert.deepEqual(
    containerRole({ "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "s" }),
    { role: "container", sandboxId: "s" },
  );
});

test("containerRole() reads CRI-O's annotations", () => {
  assert.deepEqual(
    containerRole({ "io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "p" }),
    { role: "container", sandboxId: "p" },
  );
});

test("containerRole() takes anything else as a sandbox of its own", () => {
  assert.deepEqual(containerRole(), { role: "single" });
  assert.deepEqual(containerRole({ "io.kubernetes.cri.container-type": "container" }), { role: "single" });
});
