import assert from "node:assert/strict";
import { test } from "node:test";
import {
  formatIp,
  formatMac,
  isIpv6LinkLocal,
  parseCidr,
  parseIp,
  parseMac,
} from "../../../src/netlink/index.ts";

test("addresses are written as RFC 5952 wants them and read back", () => {
  for (const [text, canonical = text] of [
    ["10.0.255.1"],
    ["::"],
    ["::1"],
    ["fe80::1"],
    ["2001:db8::1:0:0:1"],
    ["2001:db8:0:1:1:1:1:1"],
    ["2001:0DB8:0:0:0:0:2:1", "2001:db8::2:1"],
    ["2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["::ffff:10.0.0.1", "::ffff:a00:1"],
    ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
  ] as const) {
    assert.equal(formatIp(parseIp(text)), canonical);
    assert.deepEqual(parseIp(canonical), parseIp(text));
  }
});

test("what is no address is refused by name", () => {
  for (const text of [
    "",
    "10.0.0",
    "10.0.0.256",
    "10.0.0.01",
    ":::",
    "1::2::3",
    "1:2:3:4:5:6:7",
    "12345::",
    "g::",
    "1:2:3:4:5:6:7:8:9",
    "::1.2.3",
  ]) {
    assert.throws(() => parseIp(text), {
      code: "ERR_INVALID_ARGUMENT",
      message: `"${text}" is not an IP address`,
    });
  }
  for (const text of ["10.0.0.1/33", "::/129", "10.0.0.1/x", "10.0.0.1/-1"]) {
    assert.throws(() => parseCidr(text), { code: "ERR_INVALID_ARGUMENT" });
  }
  assert.throws(() => parseMac("02:00:0"), { code: "ERR_INVALID_ARGUMENT" });
});

test("a bare address has its full prefix length", () => {
  assert.equal(parseCidr("10.0.0.1").prefixLength, 32);
  assert.equal(parseCidr("::1").prefixLength, 128);
  assert.equal(parseCidr("::/0").prefixLength, 0);
});

test("random addresses survive text and back", () => {
  for (let i = 0; i < 500; i++) {
    const bytes = Uint8Array.from({ length: i % 2 === 0 ? 4 : 16 }, () =>
      Math.random() < 0.4 ? 0 : Math.floor(Math.random() * 256),
    );
    assert.deepEqual(parseIp(formatIp(bytes)), bytes);
  }
});

test("link-local is fe80::/10", () => {
  assert.ok(isIpv6LinkLocal(parseIp("febf::1")));
  assert.ok(!isIpv6LinkLocal(parseIp("fec0::1")));
  assert.ok(!isIpv6LinkLocal(parseIp("254.128.0.1")));
});

test("MAC addresses", () => {
  assert.equal(formatMac(parseMac("02:AB:00:00:00:ff")), "02:ab:00:00:00:ff");
});
