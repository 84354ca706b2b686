import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import { test } from "node:test";
import { decodeReason, encodeReason, MAX_REASON_BYTES } from "../../../src/streams/reason.ts";

test("encodeReason() gives the UTF-8 that TextEncoder gives, and decodeReason() the text back", () => {
  for (const text of [
    "",
    "no such container",
    "größer als 1 €",
    "日本語",
    "a😀b",
    "\u07ff\u0800\uffff\u{10000}\u{10ffff}",
  ]) {
    assert.deepEqual(encodeReason(text), new TextEncoder().encode(text));
    assert.equal(decodeReason(encodeReason(text)), text);
  }
  assert.deepEqual(encodeReason("\ud800"), new TextEncoder().encode("\ud800"));
});

test("encodeReason() cuts between characters at 512 bytes", () => {
  const bytes = encodeReason("€".repeat(400));
  assert.equal(bytes.length, MAX_REASON_BYTES - (MAX_REASON_BYTES % 3));
  assert.equal(decodeReason(bytes), "€".repeat(bytes.length / 3));
});

test("decodeReason() replaces control characters, so a reason cannot forge a log line", () => {
  const text = decodeReason(new TextEncoder().encode("a\nb\u001b[2Jc\u0000d\u0085e\u2028f"));
  assert.equal(text, "a\ufffdb\ufffd[2Jc\ufffdd\ufffde\ufffdf");
});

test("decodeReason() accepts exactly the well-formed UTF-8 that TextDecoder accepts", () => {
  for (let round = 0; round < 3000; round++) {
    // Biased to lead and continuation bytes, so that about half of the sequences are nearly right.
    const random = randomBytes(randomInt(1, 6));
    const bytes = Buffer.from(random.map((byte) => (byte % 3 === 0 ? byte : 0x80 | (byte & 0x7f))));
    let expected: string | undefined;
    try {
      expected = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      // malformed
    }
    const text = decodeReason(bytes);
    if (expected === undefined) assert.ok(text.includes("\ufffd"), bytes.toString("hex"));
    else assert.equal(text, expected.replace(/[\p{Cc}\u2028\u2029]/gu, "\ufffd"), bytes.toString("hex"));
  }
});
