import assert from "node:assert/strict";
import { test } from "node:test";
import { inputPath, outputTarget } from "../../../../src/runtime/stdio/target.ts";

test("outputTarget() knows paths and the schemes of containerd", () => {
  assert.deepEqual(outputTarget(""), { kind: "none" });
  assert.deepEqual(outputTarget("/run/a b%20"), { kind: "fifo", path: "/run/a b%20" });
  assert.deepEqual(outputTarget("fifo:///run/x"), { kind: "fifo", path: "/run/x" });
  assert.deepEqual(outputTarget("file:///var/log/a%20b"), { kind: "file", path: "/var/log/a b" });
  assert.deepEqual(outputTarget("binary:///usr/bin/logger"), {
    kind: "binary",
    path: "/usr/bin/logger",
    args: [],
    readyByte: false,
  });
});

test("outputTarget() makes arguments of the query: each key and its first value", () => {
  const target = outputTarget("binary-v2:///l?id=foo&empty&id=bar&path=%2Fvar%2Flog+x");
  assert.deepEqual(target, {
    kind: "binary",
    path: "/l",
    args: ["id", "foo", "empty", "", "path", "/var/log x"],
    readyByte: true,
  });
});

test("outputTarget() refuses what names no absolute path, naming the string", () => {
  for (const text of [
    "relative",
    "file://host/x",
    "binary://",
    "npipe:////./pipe/x",
    "binary:x",
    "file:///%ff",
  ]) {
    assert.throws(
      () => outputTarget(text),
      (error: Error) => error.message.includes(`"${text}"`),
      text,
    );
  }
});

test("inputPath() takes a FIFO or nothing", () => {
  assert.equal(inputPath(""), undefined);
  assert.equal(inputPath("fifo:///run/in"), "/run/in");
  assert.throws(() => inputPath("file:///run/in"), /is not a named pipe/);
});
