import assert from "node:assert/strict";
import { test } from "node:test";
import { parseModuleList } from "../../../guest-agent/src/boot/module-list.ts";

test("parseModuleList() keeps the order and tells the conditions apart", () => {
  const { entries, malformed } = parseModuleList(
    "# comment\nboot /m/virtio.ko\nvirtio:26 /m/fuse.ko\n\nvirtio:26 /m/virtiofs.ko\ndemand:overlay /m/overlay.ko\n",
  );
  assert.deepEqual(entries, [
    { when: { kind: "boot" }, path: "/m/virtio.ko" },
    { when: { kind: "virtio", id: 26 }, path: "/m/fuse.ko" },
    { when: { kind: "virtio", id: 26 }, path: "/m/virtiofs.ko" },
    { when: { kind: "demand", name: "overlay" }, path: "/m/overlay.ko" },
  ]);
  assert.deepEqual(malformed, []);
});

test("parseModuleList() keeps spaces inside a path", () => {
  assert.equal(parseModuleList("boot  /m/a b.ko ").entries[0]?.path, "/m/a b.ko");
});

for (const line of [
  "boot",
  "virtio:x /m/a.ko",
  "virtio: /m/a.ko",
  "demand: /m/a.ko",
  "later /m/a.ko",
  "/m/a.ko",
]) {
  test(`parseModuleList() sets "${line}" aside and goes on`, () => {
    const { entries, malformed } = parseModuleList(`${line}\nboot /m/z.ko\n`);
    assert.deepEqual(malformed, [line]);
    assert.deepEqual(entries, [{ when: { kind: "boot" }, path: "/m/z.ko" }]);
  });
}
