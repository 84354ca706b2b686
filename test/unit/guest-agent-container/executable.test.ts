import assert from "node:assert/strict";
import { test } from "node:test";
import {
  environmentValue,
  findExecutable,
  homeDirectory,
  type ModeOf,
  reasonText,
} from "../../../guest-agent/src/container/executable.ts";

const files: Readonly<Record<string, number | string>> = {
  "/bin/sh": 0o100755,
  "/bin/dir": 0o040755,
  "/bin/plain": 0o100644,
  "/usr/bin/plain": 0o100755,
  "./here": 0o100755,
  "/locked/x": "EACCES",
  "/file/x": "ENOTDIR",
};
const modeOf: ModeOf = (path) => files[path] ?? "ENOENT";
const find = (command: string, path?: string) => findExecutable(command, path, modeOf);

test("a command is looked for in PATH, in order", () => {
  assert.equal(find("sh", "/sbin:/bin"), "/bin/sh");
  assert.equal(find("plain", "/bin:/usr/bin"), "/usr/bin/plain", "what cannot be executed is passed over");
  assert.equal(find("here", "/bin:"), "./here", "an empty entry is the working directory");
  assert.equal(find("sh"), "/bin/sh", "without PATH");
});

test("a path is taken as it is", () => {
  assert.equal(find("/bin/sh", ""), "/bin/sh");
});

const failures: readonly (readonly [command: string, error: string])[] = [
  ["nope", 'exec: "nope": executable file not found in $PATH'],
  ["dir", 'exec: "dir": executable file not found in $PATH'],
  ["", 'exec: "": executable file not found in $PATH'],
  ["/bin/nope", 'exec: "/bin/nope": stat /bin/nope: no such file or directory'],
  ["/bin/dir", 'exec: "/bin/dir": is a directory'],
  ["/bin/plain", 'exec: "/bin/plain": permission denied'],
  ["/locked/x", 'exec: "/locked/x": permission denied'],
  ["/file/x", 'exec: "/file/x": stat /file/x: not a directory'],
];
for (const [command, message] of failures) {
  test(`what cannot be found is said as clients expect: ${command || "(empty)"}`, () => {
    assert.throws(() => find(command, "/bin"), { code: "ERR_START_PROCESS", message });
  });
}

test("an unknown reason is the errno's own name", () => {
  assert.equal(reasonText("EWHATEVER"), "EWHATEVER");
});

test("the last value of a variable counts", () => {
  assert.equal(environmentValue(["A=1", "AB=2", "A=3=4"], "A"), "3=4");
  assert.equal(environmentValue(["AB=2"], "A"), undefined);
});

test("home directories come from passwd lines that are complete", () => {
  const passwd = "root:x:0:0:root:/root:/bin/sh\nbroken:x:5\nempty:x:6:6:::\napp:x:1000:1000::/home/app:\n";
  assert.equal(homeDirectory(passwd, 0), "/root");
  assert.equal(homeDirectory(passwd, 1000), "/home/app");
  for (const uid of [5, 6, 7]) assert.equal(homeDirectory(passwd, uid), undefined);
});
