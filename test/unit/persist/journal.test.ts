import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Journal, parseJournal, readJournal } from "../../../src/persist/journal.ts";

function scratch(t: { after: (run: () => void) => void }): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "journal-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  return path.join(dir, "journal");
}

const mountsOf = (file: string) =>
  readJournal(file).map((record) => (record.kind === "mount" ? record.path : record.kind));

test("readJournal() gives what was added and not done, oldest first", (t) => {
  const file = scratch(t);
  const journal = Journal.create(file);
  const first = journal.add({ kind: "mount", path: "/run/a" });
  journal.add({ kind: "mount", path: "/run/b" });
  journal.add({ kind: "cgroup", path: "/run/c" });
  journal.done(first);
  journal.close();
  assert.deepEqual(readJournal(file), [
    { kind: "mount", path: "/run/b" },
    { kind: "cgroup", path: "/run/c" },
  ]);
});

test("readJournal() of a journal cut at any byte gives a prefix of its records", (t) => {
  const file = scratch(t);
  const journal = Journal.create(file);
  const all = ["/run/a", "/run/b", "/run/c"];
  for (const name of all) journal.add({ kind: "mount", path: name });
  journal.close();
  const whole = fs.readFileSync(file);
  for (let length = 0; length <= whole.length; length++) {
    fs.writeFileSync(file, whole.subarray(0, length));
    const paths = mountsOf(file);
    assert.deepEqual(paths, all.slice(0, paths.length));
  }
});

test("readJournal() takes a missing file as empty and skips garbage", (t) => {
  const file = scratch(t);
  assert.deepEqual(readJournal(file), []);
  fs.writeFileSync(
    file,
    'nonsense\n{"add":1,"record":{"kind":"mount","path":"/run/x"}}\n{"done":9}\n[]\n{"ad',
  );
  assert.deepEqual(readJournal(file), [{ kind: "mount", path: "/run/x" }]);
});

test("Journal.create() refuses an existing journal by its path", (t) => {
  const file = scratch(t);
  Journal.create(file).close();
  assert.throws(() => Journal.create(file), { code: "ERR_ALREADY_EXISTS", message: new RegExp(file) });
});

/** A disk that takes `room` bytes, as write(2) on a full file system does: a short write first, then ENOSPC. */
function diskWithRoom(room: number) {
  let left = room;
  return {
    free: (bytes: number) => {
      left += bytes;
    },
    writeSync: (fd: number, bytes: Uint8Array) => {
      if (left === 0) throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
      const taken = fs.writeSync(fd, bytes.subarray(0, left));
      left -= taken;
      return taken;
    },
  };
}

test("add() on a disk that fills up within the line throws: the side effect must not happen", (t) => {
  const file = scratch(t);
  for (let room = 0; room < 50; room++) {
    fs.rmSync(file, { force: true });
    const journal = Journal.create(file, diskWithRoom(room));
    assert.throws(() => journal.add({ kind: "mount", path: "/run/a" }), { code: "ERR_EXHAUSTED" });
    journal.close();
    assert.deepEqual(readJournal(file), []);
  }
});

test("add() after the disk was full is read back, and what was cut is not", (t) => {
  const file = scratch(t);
  const disk = diskWithRoom(20);
  const journal = Journal.create(file, disk);
  assert.throws(() => journal.add({ kind: "mount", path: "/run/a" }));
  disk.free(1000);
  journal.add({ kind: "mount", path: "/run/b" });
  journal.close();
  assert.deepEqual(mountsOf(file), ["/run/b"]);
});

test("done() never fails: an undone record may be undone again", (t) => {
  const file = scratch(t);
  const disk = diskWithRoom(60);
  const journal = Journal.create(file, disk);
  const number = journal.add({ kind: "mount", path: "/run/a" });
  journal.done(number);
  journal.done(number);
  journal.close();
});

test("parseJournal() passes over records that would undo what is not a sandbox's", () => {
  const bad = [
    { kind: "process", name: "x", pid: 1, startTime: "1" },
    { kind: "process", name: "x", pid: -4, startTime: "1" },
    { kind: "process", name: "x", pid: 1.5, startTime: "1" },
    { kind: "process", name: "x" },
    { kind: "process", name: "x", pid: 77, startTime: 5 },
    { kind: "cgroup", path: "/" },
    { kind: "cgroup", path: "/run" },
    { kind: "cgroup", path: "run/x" },
    { kind: "dir", path: "/run/x" },
    { kind: "file", path: "/run/x" },
    { kind: "mount", path: "/run/../etc" },
    { kind: "mount", path: "/run/x\0y" },
    { kind: "mount" },
    { kind: "mount", path: ["/run/x"] },
    { kind: "spawn", name: "x", file: "qemu", marker: "/run/x" },
    { kind: "facts", facts: { a: {} } },
    { kind: "net" },
    { kind: "other", path: "/run/x" },
    null,
    "x",
    [],
  ];
  const text = bad.map((record, add) => JSON.stringify({ add, record })).join("\n");
  assert.deepEqual(parseJournal(text), []);
});
