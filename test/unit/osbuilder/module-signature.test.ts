import assert from "node:assert/strict";
import { test } from "node:test";
import { loadsUnsignedModules, withoutSignature } from "../../../osbuilder/module-signature.ts";

const MARK = "~Module signature appended~\n";

function signed(module: string, signature: string): Buffer {
  const trailer = Buffer.alloc(12);
  trailer.writeUInt8(2, 2); // id_type PKEY_ID_PKCS7
  trailer.writeUInt32BE(signature.length, 8);
  return Buffer.concat([Buffer.from(module), Buffer.from(signature), trailer, Buffer.from(MARK)]);
}

test("withoutSignature() cuts signature, trailer and mark", () => {
  assert.equal(Buffer.from(withoutSignature(signed("MODULE", "s".repeat(395)))).toString(), "MODULE");
});

test("withoutSignature() leaves what is not signed, or says that the signature is longer than the file", () => {
  for (const module of [Buffer.from("MODULE"), Buffer.alloc(0), Buffer.from(MARK)]) {
    assert.equal(withoutSignature(module), module);
  }
  const damaged = signed("M", "");
  damaged.writeUInt32BE(0xffffff, damaged.length - MARK.length - 4);
  assert.equal(withoutSignature(damaged), damaged);
});

test("loadsUnsignedModules() says no for an enforcing or unknown kernel", () => {
  assert.equal(loadsUnsignedModules(undefined), false);
  assert.equal(loadsUnsignedModules(new Map([["CONFIG_MODULE_SIG_FORCE", "y"]])), false);
  assert.equal(loadsUnsignedModules(new Map([["CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY", "y"]])), false);
  assert.equal(loadsUnsignedModules(new Map([["CONFIG_MODULE_SIG", "y"]])), true);
});
