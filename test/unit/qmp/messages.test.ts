import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { MessageSplitter, parseMessage } from "../../../src/qmp/messages.ts";

const hasCode = (code: string) => (error: unknown) => error instanceof SandboxError && error.code === code;

test("parseMessage() reads QEMU's greeting", () => {
  const line =
    '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2"}, "capabilities": ["oob"]}}';
  assert.deepEqual(parseMessage(line), {
    kind: "greeting",
    version: { major: 7, minor: 2, micro: 22, package: "Debian 1:7.2" },
    capabilities: ["oob"],
  });
});

test("parseMessage() reads answers, errors and events", () => {
  assert.deepEqual(parseMessage('{"return": [1], "id": 4}'), { kind: "return", id: 4, value: [1] });
  assert.deepEqual(parseMessage('{"id": 5, "error": {"class": "DeviceNotFound", "desc": "no"}}'), {
    kind: "error",
    id: 5,
    errorClass: "DeviceNotFound",
    description: "no",
  });
  assert.deepEqual(parseMessage('{"timestamp": {"seconds": 2, "microseconds": 500000}, "event": "STOP"}'), {
    kind: "event",
    event: { event: "STOP", data: {}, timestampMs: 2500 },
  });
  const unknownTime = parseMessage('{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "STOP"}');
  assert.ok(unknownTime.kind === "event" && Number.isNaN(unknownTime.event.timestampMs));
});

test("parseMessage() refuses what is not QMP", () => {
  for (const line of ["", "hello", "[]", "null", "{}", '{"QMP": 1}', '{"error": "x"}', "{"]) {
    assert.throws(() => parseMessage(line), hasCode("ERR_PROTOCOL"), line);
  }
  assert.throws(
    () => parseMessage(`x${"y".repeat(500)}`),
    (error: Error) => error.message.length < 200,
  );
});

test("MessageSplitter gives the same lines at every cut", () => {
  const raw = new TextEncoder().encode('{"a":1}\r\n\r\n{"b":"ü"}\n{"c":3}\r\n');
  for (let cut = 0; cut <= raw.length; cut++) {
    const splitter = new MessageSplitter();
    const lines = [...splitter.push(raw.subarray(0, cut)), ...splitter.push(raw.subarray(cut))];
    assert.deepEqual(lines, ['{"a":1}', '{"b":"ü"}', '{"c":3}'], `cut at ${cut}`);
  }
});

test("MessageSplitter bounds a line that never ends", () => {
  const splitter = new MessageSplitter(100);
  const push = () => {
    for (let i = 0; i < 20; i++) splitter.push(new Uint8Array(10).fill(0x61));
  };
  assert.throws(push, hasCode("ERR_FRAME_TOO_LARGE"));
});

test("MessageSplitter keeps its own copy of an unfinished line", () => {
  const splitter = new MessageSplitter();
  const shared = new TextEncoder().encode("abc");
  splitter.push(shared);
  shared.fill(0x78);
  assert.deepEqual(splitter.push(new TextEncoder().encode("d\n")), ["abcd"]);
});
