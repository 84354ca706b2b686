import assert from "node:assert/strict";
import { test } from "node:test";
import { hasPvhEntry, isDynamicallyLinked, isElf, parseElf, sectionBytes } from "../../../osbuilder/elf.ts";
import { parseModinfo } from "../../../osbuilder/modinfo.ts";
import { makeElf, makeModule, makeVmlinux } from "./fixtures.ts";

test("parseElf() finds sections by name and the file's real extent", () => {
  const bytes = makeElf({
    sections: [
      { name: ".a", data: Buffer.from("first") },
      { name: ".b", data: Buffer.from("2nd") },
    ],
  });
  const elf = parseElf(Buffer.concat([bytes, Buffer.from("appended")]), "test");
  assert.equal(sectionBytes(elf, ".b")?.toString(), "2nd");
  assert.equal(sectionBytes(elf, ".c"), undefined);
  assert.equal(elf.extent, bytes.length);
  assert.equal(elf.machine, 62);
});

test("parseElf() refuses other files and every truncation of a good one, naming the file", () => {
  assert.throws(() => parseElf(Buffer.from("#!/bin/sh"), "the-file"), /the-file is not a 64-bit/);
  const bytes = makeVmlinux();
  for (let cut = 0; cut < bytes.length; cut++) {
    assert.throws(
      () => parseElf(bytes.subarray(0, cut), "the-file"),
      { code: "ERR_INVALID_ARGUMENT" },
      `cut at ${cut}`,
    );
  }
  assert.equal(isElf(bytes), true);
  assert.equal(isElf(Buffer.from("ELF")), false);
});

test("hasPvhEntry() and isDynamicallyLinked() look at notes and the interpreter", () => {
  assert.equal(hasPvhEntry(parseElf(makeVmlinux(), "k")), true);
  assert.equal(hasPvhEntry(parseElf(makeVmlinux({ pvh: false }), "k")), false);
  const dynamic = makeElf({ segments: [{ type: 3, data: Buffer.from("/lib64/ld-linux-x86-64.so.2\0") }] });
  assert.equal(isDynamicallyLinked(parseElf(dynamic, "p")), true);
  assert.equal(isDynamicallyLinked(parseElf(makeVmlinux(), "p")), false);
});

test("parseModinfo() reads dependencies, soft dependencies, aliases and the release", () => {
  const info = parseModinfo(
    makeModule([
      "license=GPL",
      "depends=virtio,virtio-ring",
      "softdep=pre: crc32c sha256 post: extra",
      "softdep=ignored pre: late",
      "alias=fs-x",
      "alias=virtio:d0000001Av*",
    ]),
    "x.ko",
  );
  assert.deepEqual(info, {
    depends: ["virtio", "virtio-ring"],
    softBefore: ["crc32c", "sha256", "late"],
    softAfter: ["extra"],
    aliases: ["fs-x", "virtio:d0000001Av*"],
    release: "6.1.0-test",
  });
});

test("parseModinfo() refuses an ELF file that is no module", () => {
  assert.throws(() => parseModinfo(makeVmlinux(), "x.ko"), /x\.ko is not a kernel module/);
});
