/** Which sandbox a word means. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { StatusResponseSchema } from "../../../src/gen/caisson/control/v1/control_pb.ts";
import { chooseContainer, chooseTarget } from "../../../src/operator/find-target.ts";
import type { SandboxView } from "../../../src/operator/sandbox-view.ts";
import { sandboxPaths } from "../../../src/persist/run-dir.ts";

function view(id: string, pod: string, containers: readonly string[] = []): SandboxView {
  const dir = `/run/caisson/${id}`;
  const facts = { pod, podNamespace: "default" };
  return {
    record: { id, dir, paths: sandboxPaths(dir), namespace: "k8s.io", facts, processes: [], owned: true },
    status: create(StatusResponseSchema, {
      state: "running",
      containers: containers.map((one) => ({ id: one })),
    }),
    problem: undefined,
  };
}

const views = [view("aaa1", "web", ["ccc1", "ccd2"]), view("aab2", "web-2"), view("dead", "aaa1-pod")];

for (const [word, id] of [
  ["aaa1", "aaa1"],
  ["aab", "aab2"],
  ["ccd2", "aaa1"],
  ["cc", "aaa1"],
  ["web", "aaa1"],
  ["web-", "aab2"],
  ["default/web-2", "aab2"],
  ["default/aaa", "dead"],
] as const) {
  test(`"${word}" means ${id}: exact names win over beginnings`, () => {
    assert.equal(chooseTarget(word, views).record.id, id);
  });
}

for (const [word, code, text] of [
  [
    "aa",
    "ERR_INVALID_ARGUMENT",
    /fits several sandboxes: aaa1 \(default\/web\), aab2 \(default\/web-2\), dead .*give more of the id/,
  ],
  ["wb-2", "ERR_NOT_FOUND", /did you mean web-2\? shim list shows all/],
  ["nothing-like-it", "ERR_NOT_FOUND", /shim list shows what there is/],
  ["", "ERR_NOT_FOUND", /shim list/],
] as const) {
  test(`"${word}" is ${code}, with what to do`, () => {
    assert.throws(() => chooseTarget(word, views), { code, message: text });
  });
}

test("without any sandbox the host is what to look at", () => {
  assert.throws(
    () => chooseTarget("web", []),
    /no sandbox of Caisson is on this host \(is the pod on this node/,
  );
});

test("a container is named by its id or the unique beginning of one", () => {
  const [first = assert.fail()] = views;
  assert.equal(chooseContainer("ccc", first), "ccc1");
  assert.throws(() => chooseContainer("cc", first), {
    code: "ERR_INVALID_ARGUMENT",
    message: /ccc1, ccd2; give more/,
  });
  assert.throws(() => chooseContainer("x", first), { code: "ERR_NOT_FOUND", message: /it has ccc1, ccd2/ });
});
