/** guest-agent/src/boot/virtio-id.ts */
import assert from "node:assert/strict";
import { test } from "node:test";
import { virtioId } from "../../../guest-agent/src/boot/virtio-id.ts";

const modalias = (vendor: string, device: string, subsystem: string) =>
  `pci:v0000${vendor}d0000${device}sv00001AF4sd0000${subsystem}bc00sc00i00\n`;

test("a modern device has its virtio id in its own id, a transitional one in its subsystem's", () => {
  assert.equal(virtioId(modalias("1AF4", "1053", "1100")), 19);
  assert.equal(virtioId(modalias("1AF4", "105A", "1100")), 26);
  assert.equal(virtioId(modalias("1AF4", "1041", "1100")), 1);
  assert.equal(virtioId(modalias("1AF4", "1005", "0004")), 4);
  assert.equal(virtioId(modalias("1AF4", "1002", "0005")), 5);
});

test("what is no virtio device has none", () => {
  assert.equal(virtioId(modalias("8086", "1041", "1100")), undefined);
  assert.equal(virtioId(modalias("1B36", "000C", "0000")), undefined);
  assert.equal(virtioId(modalias("1AF4", "1110", "1100")), undefined);
  assert.equal(virtioId(""), undefined);
});
