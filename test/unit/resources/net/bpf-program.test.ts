import assert from "node:assert/strict";
import { test } from "node:test";
import { dropProgram, redirectProgram } from "../../../../src/resources/net/bpf-program.ts";

const instructions = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex").match(/.{16}/g);

test("the redirect program pulls the headers, clears the timestamp and redirects", () => {
  assert.deepEqual(instructions(redirectProgram(0x1234)), [
    "bf16000000000000", // r6 = r1
    "6162000000000000", // r2 = *(u32 *)(r6 + 0)
    "a502010086000000", // if r2 < 134 skip one
    "b702000086000000", // r2 = 134
    "bf61000000000000", // r1 = r6
    "8500000027000000", // call skb_pull_data
    "b702000000000000", // r2 = 0
    "7b26980000000000", // *(u64 *)(r6 + 152) = r2
    "b701000034120000", // r1 = ifindex
    "b702000000000000", // r2 = 0: egress
    "8500000017000000", // call redirect
    "9500000000000000", // exit
  ]);
});

test("the drop program returns TC_ACT_SHOT", () => {
  assert.deepEqual(instructions(dropProgram()), ["b700000002000000", "9500000000000000"]);
});
