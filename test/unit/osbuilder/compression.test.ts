import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { compressInitrd, decompress, detectFormat } from "../../../osbuilder/compression.ts";
import { runFilter } from "../../../osbuilder/filter.ts";
import { lz4LegacyEncode } from "../../../osbuilder/lz4-legacy.ts";

const text = Buffer.from("some text, some text, some text\n".repeat(100));

for (const [format, bytes] of [
  ["gzip", [0x1f, 0x8b, 8]],
  ["bzip2", [...Buffer.from("BZh9")]],
  ["lzma", [0x5d, 0, 0, 0x80]],
  ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]],
  ["lz4", [0x02, 0x21, 0x4c, 0x18]],
  ["lzo", [0x89, 0x4c, 0x5a, 0x4f]],
  ["zstd", [0x28, 0xb5, 0x2f, 0xfd]],
  [undefined, [0x7f, 0x45, 0x4c, 0x46]],
  [undefined, []],
] as const) {
  test(`detectFormat() finds ${format ?? "nothing"} in ${JSON.stringify(bytes)}`, () => {
    assert.equal(detectFormat(Uint8Array.from(bytes)), format);
  });
}

test("decompress() gives back what gzip and LZ4 packed, and refuses LZO", async () => {
  assert.ok(text.equals(await decompress("gzip", gzipSync(text), "x")));
  assert.ok(text.equals(await decompress("lz4", lz4LegacyEncode(text), "x")));
  await assert.rejects(decompress("lzo", text, "the-kernel"), {
    code: "ERR_UNSUPPORTED",
    message: /the-kernel.*LZO/,
  });
});

test("decompress() names damaged data and keeps the reason as cause", async () => {
  for (const format of ["gzip", "lz4"] as const) {
    await assert.rejects(decompress(format, text, "/lib/x.ko"), (error: Error) => {
      assert.equal(error.message, `/lib/x.ko is damaged: its ${format} data do not decompress`);
      return error.cause instanceof Error;
    });
  }
});

test("compressInitrd() writes gzip without a time, so that the bytes repeat", async () => {
  const packed = await compressInitrd("gzip", text);
  assert.deepEqual([...packed.subarray(4, 8)], [0, 0, 0, 0]); // MTIME, RFC 1952
  assert.deepEqual(await compressInitrd("gzip", text), packed);
});

test("runFilter() pipes bytes through a program", async () => {
  const filter = { program: "tr", args: ["a-z", "A-Z"], debianPackage: "coreutils" };
  assert.equal(Buffer.from(await runFilter(filter, Buffer.from("abc\n"), "x")).toString(), "ABC\n");
});

test("runFilter() names the package of a missing program", async () => {
  const filter = { program: "caisson-no-such-program", args: [], debianPackage: "some-package" };
  await assert.rejects(runFilter(filter, text, "the kernel in /boot/x"), {
    code: "ERR_HOST",
    message:
      "the kernel in /boot/x needs the program caisson-no-such-program, which is not installed: apt install some-package",
  });
});

test("runFilter() passes on the first line that a failing program says, also when it reads nothing", async () => {
  const filter = {
    program: "sh",
    args: ["-c", "echo broken data >&2; echo more >&2; exit 1"],
    debianPackage: "dash",
  };
  await assert.rejects(runFilter(filter, Buffer.alloc(1 << 20), "/x.ko"), {
    code: "ERR_INVALID_ARGUMENT",
    message: "sh cannot process /x.ko: broken data",
  });
});

test("runFilter() ends the program when it is canceled", async () => {
  const controller = new AbortController();
  const filter = { program: "sleep", args: ["60"], debianPackage: "coreutils" };
  const running = runFilter(filter, text, "x", controller.signal);
  controller.abort();
  await assert.rejects(running, { code: "ERR_CANCELED" });
});
