import assert from "node:assert/strict";
import { test } from "node:test";
import {
  candidates,
  environmentValue,
  notFound,
  reasonText,
} from "../../../guest-agent/src/container/executable.ts";

test("a command is looked for in PATH, in order", () => {
  assert.deepEqual(candidates("sh", "/sbin:/bin"), ["/sbin/sh", "/bin/sh"]);
  assert.deepEqual(
    candidates("here", "/bin:"),
    ["/bin/here", "./here"],
    "an empty entry is the working directory",
  );
  assert.deepEqual(candidates("sh", undefined), ["/bin/sh", "/usr/bin/sh"], "without PATH");
  assert.deepEqual(candidates("", "/bin"), []);
});

test("a path is taken as it is", () => {
  assert.deepEqual(candidates("/bin/sh", ""), ["/bin/sh"]);
});

const failures: readonly (readonly [command: string, errno: string, error: string])[] = [
  ["nope", "ENOENT", 'exec: "nope": executable file not found in $PATH'],
  ["dir", "EISDIR", 'exec: "dir": executable file not found in $PATH'],
  ["", "ENOENT", 'exec: "": executable file not found in $PATH'],
  ["/bin/nope", "ENOENT", 'exec: "/bin/nope": stat /bin/nope: no such file or directory'],
  ["/bin/dir", "EISDIR", 'exec: "/bin/dir": is a directory'],
  ["/bin/plain", "EACCES", 'exec: "/bin/plain": permission denied'],
  ["/file/x", "ENOTDIR", 'exec: "/file/x": stat /file/x: not a directory'],
];
for (const [command, errno, message] of failures) {
  test(`what cannot be found is said as clients expect: ${command || "(empty)"}`, () => {
    assert.equal(notFound(command, errno), message);
  });
}

test("an unknown reason is the errno's own name", () => {
  assert.equal(reasonText("EWHATEVER"), "EWHATEVER");
});

test("the last value of a variable counts", () => {
  assert.equal(environmentValue(["A=1", "AB=2", "A=3=4"], "A"), "3=4");
  assert.equal(environmentValue(["AB=2"], "A"), undefined);
  assert.equal(environmentValue(["A=1", "A=", "B=x\nA=2"], "A"), "");
  assert.equal(environmentValue([], "A"), undefined);
});
