import assert from "node:assert/strict";
import { test } from "node:test";
import { parseMountOptions, parsePropagation } from "../../../guest-agent/src/container/mount-options.ts";

const parse = (...options: string[]) => parseMountOptions(options, "/x");

// linux/mount.h MOUNT_ATTR_*.
const RDONLY = 1;
const NOSUID = 2;
const NODEV = 4;
const NOEXEC = 8;
const ATIME = 0x70;
const NOATIME = 0x10;
const STRICTATIME = 0x20;

test("attributes are collected and the rest goes to the file system", () => {
  const options = parse("nosuid", "nodev", "noexec", "ro", "size=64k", "mode=755", "newinstance");
  assert.deepEqual(options.attributes, { set: RDONLY | NOSUID | NODEV | NOEXEC, clear: 0 });
  assert.deepEqual(options.data, [["size", "64k"], ["mode", "755"], ["newinstance"]]);
  assert.equal(options.bind, false);
});

test("a value may hold an equals sign", () => {
  assert.deepEqual(parse("context=a=b").data, [["context", "a=b"]]);
});

test("the last of contradicting options wins", () => {
  assert.deepEqual(parse("ro", "rw").attributes, { set: 0, clear: RDONLY });
  assert.deepEqual(parse("rw", "ro").attributes, { set: RDONLY, clear: 0 });
});

test("access time modes replace each other", () => {
  assert.deepEqual(parse("noatime").attributes, { set: NOATIME, clear: ATIME });
  assert.deepEqual(parse("noatime", "strictatime").attributes, { set: STRICTATIME, clear: ATIME });
  assert.deepEqual(parse("strictatime", "relatime").attributes, { set: 0, clear: ATIME });
});

test("recursive attributes are kept apart", () => {
  const options = parse("rbind", "ro", "rnosuid", "rro", "rnoatime");
  assert.deepEqual(options.attributes, { set: RDONLY, clear: 0 });
  assert.deepEqual(options.recursiveAttributes, { set: RDONLY | NOSUID | NOATIME, clear: ATIME });
  assert.deepEqual([options.bind, options.recursiveBind], [true, true]);
  assert.deepEqual(options.data, []);
});

test("bind and rbind differ", () => {
  assert.deepEqual([parse("bind").bind, parse("bind").recursiveBind], [true, false]);
});

test("propagation names", () => {
  const flags = { shared: 1 << 20, slave: 1 << 19, private: 1 << 18, unbindable: 1 << 17 };
  for (const [name, flag] of Object.entries(flags)) {
    assert.deepEqual(parsePropagation(name), { flag, recursive: false });
    assert.deepEqual(parsePropagation(`r${name}`), { flag, recursive: true });
  }
  assert.equal(parsePropagation("ro"), undefined);
  assert.equal(parsePropagation(""), undefined);
  assert.deepEqual(parse("rslave", "private").propagation, [
    { flag: flags.slave, recursive: true },
    { flag: flags.private, recursive: false },
  ]);
});

test("words of mount(8) without meaning here are dropped", () => {
  assert.deepEqual(parse("defaults", "remount", "_netdev", "").data, []);
});

test("tmpcopyup is known, id-mapped mounts are refused by destination", () => {
  assert.equal(parse("tmpcopyup").copyUp, true);
  assert.throws(() => parse("ridmap"), /mount of \/x: id-mapped mounts are not supported/);
});
