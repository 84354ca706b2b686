import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { silentLog } from "../../../src/base/log.ts";
import { DeleteResponseSchema } from "../../../src/gen/containerd/task/v2/task_pb.ts";
import { processStartTime } from "../../../src/persist/proc.ts";
import { parseShimArguments } from "../../../src/shim/arguments.ts";
import { readExit, writeExit } from "../../../src/shim/bundle.ts";
import { deleteShim, encodeDeleteResponse } from "../../../src/shim/delete.ts";

test("encodeDeleteResponse() writes what the protobuf library reads", () => {
  const at = new Date("2026-01-02T03:04:05Z");
  const response = fromBinary(DeleteResponseSchema, encodeDeleteResponse(137, at));
  assert.equal(response.exitStatus, 137);
  assert.equal(response.exitedAt && timestampDate(response.exitedAt).getTime(), at.getTime());
});

test("readExit() gives what writeExit() noted, and nothing for a bundle without or with a damaged note", (t) => {
  const bundle = fs.mkdtempSync(path.join(os.tmpdir(), "bundle-"));
  t.after(() => fs.rmSync(bundle, { recursive: true }));
  assert.equal(readExit(bundle), undefined);
  const exit = { status: 7, exitedAt: new Date("2026-01-02T03:04:05.678Z") };
  writeExit(bundle, exit);
  assert.deepEqual(readExit(bundle), exit);
  const [file = ""] = fs.readdirSync(bundle);
  for (const text of [
    "",
    "null",
    "[]",
    '{"status":"7"}',
    '{"status":7,"exitedAt":"never"}',
    '{"status":-1}',
  ]) {
    fs.writeFileSync(path.join(bundle, file), text);
    assert.equal(readExit(bundle), undefined);
  }
  writeExit(path.join(bundle, "gone"), exit);
});

test("deleteShim() of a container whose shim was killed reports the exit that the shim had seen", async (t) => {
  const bundle = fs.mkdtempSync(path.join(os.tmpdir(), "bundle-"));
  t.after(() => fs.rmSync(bundle, { recursive: true }));
  const flags = ["-namespace", "n", "-id", "c1", "-address", `${bundle}/c.sock`, "-bundle", bundle, "delete"];
  const status = async () => {
    const answer = await deleteShim(parseShimArguments(flags), "/", silentLog);
    return fromBinary(DeleteResponseSchema, answer).exitStatus;
  };
  assert.equal(await status(), 137);
  writeExit(bundle, { status: 7, exitedAt: new Date() });
  assert.equal(await status(), 7);
});

test("deleteShim() removes the directory that a killed shim was making, and none that is being made", async (t) => {
  const root = fs.mkdtempSync(path.join(os.tmpdir(), "run-"));
  process.env.CAISSON_RUN_ROOT = root;
  t.after(() => {
    delete process.env.CAISSON_RUN_ROOT;
    fs.rmSync(root, { recursive: true });
  });
  const living = `.new-${process.pid}-${processStartTime(process.pid)}-c2-01234567`;
  for (const name of [".new-4194304-1-c1-01234567", living]) {
    fs.mkdirSync(path.join(root, name));
    fs.writeFileSync(path.join(root, name, "journal"), "");
  }
  const flags = ["-namespace", "n", "-id", "c1", "-address", `${root}/c.sock`, "-bundle", root, "delete"];
  await deleteShim(parseShimArguments(flags), "/", silentLog);
  assert.deepEqual(fs.readdirSync(root), [living]);
});
