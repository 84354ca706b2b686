import assert from "node:assert/strict";
import { test } from "node:test";
import { cpioArchive } from "../../../osbuilder/cpio.ts";

/** The expected archive, written out by hand from the format's description. */
const golden = [
  // magic  ino      mode     uid      gid      nlink    mtime    filesize major   minor   rmajor  rminor  namesize check
  "070701" +
    "00000001" +
    "000041ED" +
    "00000000" +
    "00000000" +
    "00000002" +
    "00000007" +
    "00000000" +
    "00000000",
  "00000000" + "00000000" + "00000000" + "00000004" + "00000000" + "dev\0" + "\0\0",
  "070701" +
    "00000002" +
    "00002180" +
    "00000000" +
    "00000000" +
    "00000001" +
    "00000007" +
    "00000000" +
    "00000000",
  "00000000" + "00000005" + "00000001" + "0000000C" + "00000000" + "dev/console\0" + "\0\0",
  "070701" +
    "00000003" +
    "000081ED" +
    "00000000" +
    "00000000" +
    "00000001" +
    "00000007" +
    "00000005" +
    "00000000",
  "00000000" + "00000000" + "00000000" + "00000005" + "00000000" + "init\0" + "\0" + "hello" + "\0\0\0",
  "070701" +
    "00000004" +
    "0000A1FF" +
    "00000000" +
    "00000000" +
    "00000001" +
    "00000007" +
    "00000004" +
    "00000000",
  "00000000" + "00000000" + "00000000" + "00000004" + "00000000" + "lnk\0" + "\0\0" + "init",
  "070701" +
    "00000000" +
    "00000000" +
    "00000000" +
    "00000000" +
    "00000001" +
    "00000000" +
    "00000000" +
    "00000000",
  "00000000" + "00000000" + "00000000" + "0000000B" + "00000000" + "TRAILER!!!\0" + "\0\0\0",
].join("");

test("cpioArchive() writes the newc format byte for byte", () => {
  const archive = cpioArchive(
    [
      { kind: "directory", path: "/dev", mode: 0o755 },
      { kind: "character-device", path: "/dev/console", mode: 0o600, major: 5, minor: 1 },
      { kind: "file", path: "/init", mode: 0o755, data: Buffer.from("hello") },
      { kind: "symlink", path: "/lnk", target: "init" },
    ],
    7,
  );
  assert.equal(Buffer.from(archive).toString("latin1"), golden);
  assert.equal(archive.length % 4, 0);
});

for (const path of ["relative", "/a/../b", "/a/./b", "/a//b", "/a/", "/", "/a\0b"]) {
  test(`cpioArchive() refuses the path ${JSON.stringify(path)}`, () => {
    assert.throws(() => cpioArchive([{ kind: "directory", path, mode: 0o755 }], 0), {
      code: "ERR_INVALID_ARGUMENT",
    });
  });
}

test("cpioArchive() refuses the same path twice and a time that the header cannot hold", () => {
  const directory = { kind: "directory", path: "/a", mode: 0o755 } as const;
  assert.throws(() => cpioArchive([directory, directory], 0), /two things are to be at \/a/);
  assert.throws(() => cpioArchive([directory], 2 ** 32), /does not fit/);
});
