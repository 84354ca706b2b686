import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { extractVmlinux, readKernelImage } from "../../../osbuilder/bzimage.ts";
import { lz4LegacyEncode } from "../../../osbuilder/lz4-legacy.ts";
import { makeBzImage, makeElf, makeVmlinux, sizeSuffix } from "./fixtures.ts";

const vmlinux = makeVmlinux();
/** What the build appends to the ELF file before it compresses it. */
const withRelocations = Buffer.concat([vmlinux, Buffer.alloc(333, 0x5a)]);

const payloads: Readonly<Record<string, Buffer>> = {
  gzip: gzipSync(withRelocations),
  lz4: Buffer.concat([lz4LegacyEncode(withRelocations), sizeSuffix(withRelocations.length)]),
  plain: withRelocations,
};

for (const [format, payload] of Object.entries(payloads)) {
  test(`extractVmlinux() takes the kernel out of a ${format} payload, without the relocations`, async () => {
    const image = readKernelImage("/boot/vmlinuz", makeBzImage(payload));
    assert.equal(image.release, "6.1.0-test");
    assert.ok((await extractVmlinux(image)).equals(vmlinux));
  });
}

test("readKernelImage() takes an ELF kernel and finds its release in the banner", async () => {
  const image = readKernelImage("/boot/vmlinux", vmlinux);
  assert.equal(image.kind, "elf");
  assert.equal(image.release, "6.1.0-test");
  assert.ok((await extractVmlinux(image)).equals(vmlinux));
});

test("readKernelImage() refuses what is no kernel, naming the file", () => {
  assert.throws(
    () => readKernelImage("/boot/x", Buffer.alloc(4096)),
    /\/boot\/x is not a kernel image.*no setup header/,
  );
  assert.throws(() => readKernelImage("/boot/x", Buffer.from("short")), /no setup header/);
  assert.throws(() => readKernelImage("/boot/x", makeElf({ machine: 183 })), /not for x86-64/);
});

test("extractVmlinux() refuses damaged images: wrong size, cut payload, broken data", async () => {
  const lz4 = lz4LegacyEncode(withRelocations);
  const wrongSize = makeBzImage(Buffer.concat([lz4, sizeSuffix(1)]));
  await assert.rejects(extractVmlinux(readKernelImage("/k", wrongSize)), /\/k is damaged.*1 were announced/);
  const whole = makeBzImage(gzipSync(withRelocations));
  await assert.rejects(
    extractVmlinux(readKernelImage("/k", whole.subarray(0, whole.length - 100))),
    /\/k is cut short/,
  );
  const broken = Buffer.from(gzipSync(withRelocations));
  broken.fill(0xff, 20, 60);
  await assert.rejects(extractVmlinux(readKernelImage("/k", makeBzImage(broken))), /\/k is damaged/);
});

test("extractVmlinux() refuses a kernel without a PVH entry and an image of an old boot protocol", async () => {
  const noPvh = makeBzImage(gzipSync(makeVmlinux({ pvh: false })));
  await assert.rejects(extractVmlinux(readKernelImage("/k", noPvh)), /no PVH entry point \(CONFIG_PVH\)/);
  const old = makeBzImage(gzipSync(vmlinux));
  old.writeUInt16LE(0x0207, 0x206);
  await assert.rejects(extractVmlinux(readKernelImage("/k", old)), /boot protocol 2\.07/);
});
