import assert from "node:assert/strict";
import { test } from "node:test";
import { refuseHostNamespaces } from "../../../src/oci/host-namespaces.ts";

const types = ["mount", "network", "pid", "ipc", "uts"];
const without = (missing: string) => ({
  linux: { namespaces: types.filter((type) => type !== missing).map((type) => ({ type })) },
});

test("a pod with namespaces of its own passes", () => {
  refuseHostNamespaces(without("nothing"));
});

for (const [type, setting] of [
  ["network", "hostNetwork"],
  ["pid", "hostPID"],
  ["ipc", "hostIPC"],
] as const) {
  test(`a pod in the host's ${type} namespace is refused by the name of ${setting}`, () => {
    assert.throws(() => refuseHostNamespaces(without(type)), {
      code: "ERR_UNSUPPORTED",
      message: new RegExp(`cannot be shared with a virtual machine; run the pod without ${setting}`),
    });
  });
}
