import assert from "node:assert/strict";
import { test } from "node:test";
import { attrString, attrU32, concat } from "../../../src/netlink/attribute.ts";
import { NetlinkError, requireSuccess } from "../../../src/netlink/index.ts";
import { decodeMessages, encodeMessage, NLMSG_DONE, NLMSG_ERROR, Nlm } from "../../../src/netlink/message.ts";
import { sortReplies } from "../../../src/netlink/reply.ts";

const request = { type: 36, flags: 0, payload: new Uint8Array(20), what: "adding the ingress qdisc of eth0" };

function int32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, value, true);
  return bytes;
}

const header = encodeMessage(36, 0x605, 5, new Uint8Array(0));
const ack = (sequence: number, errno: number) =>
  encodeMessage(NLMSG_ERROR, Nlm.Capped, sequence, concat(int32(-errno), header));

test("acknowledgements are told apart by sequence number, also over datagrams", () => {
  const replies = sortReplies([concat(ack(5, 0), ack(7, 17)), ack(6, 0)], 5, 3);
  assert.deepEqual(
    replies.map(({ errno, missing }) => [errno, missing]),
    [
      [0, false],
      [0, false],
      [17, false],
    ],
  );
});

test("the kernel's text is found behind a capped and behind a whole request", () => {
  const text = attrString(1, "Exclusivity flag on, cannot modify");
  const whole = encodeMessage(36, 0x605, 5, new Uint8Array(21));
  for (const [flags, echoed] of [
    [Nlm.Capped | Nlm.AckTlvs, header],
    [Nlm.AckTlvs, whole],
  ] as const) {
    const original = Uint8Array.from(echoed);
    if (echoed === whole) new DataView(original.buffer).setUint32(0, 37, true); // nlmsg_len is not padded
    const message = encodeMessage(NLMSG_ERROR, flags, 5, concat(int32(-17), original, text));
    const [reply] = sortReplies([message], 5, 1);
    assert.equal(reply?.kernelText, "Exclusivity flag on, cannot modify");
    assert.throws(() => reply && requireSuccess(request, reply), {
      name: "NetlinkError",
      code: "EEXIST",
      errno: -17,
      message: "adding the ingress qdisc of eth0: EEXIST (kernel: Exclusivity flag on, cannot modify)",
    });
  }
});

test("a missing attribute is named by number when the kernel gives no text", () => {
  const message = encodeMessage(
    NLMSG_ERROR,
    Nlm.Capped | Nlm.AckTlvs,
    5,
    concat(int32(-22), header, attrU32(5, 3)),
  );
  assert.equal(sortReplies([message], 5, 1)[0]?.kernelText, "attribute 3 is missing");
});

test("a dump that failed at its end is an error", () => {
  const part = encodeMessage(16, Nlm.Multi, 1, new Uint8Array(16));
  const [reply] = sortReplies([part, encodeMessage(NLMSG_DONE, Nlm.Multi, 1, int32(-105))], 1, 1);
  assert.equal(reply?.messages.length, 1);
  assert.throws(() => reply && requireSuccess(request, reply), { code: "ENOBUFS" });
});

test("a dump that changed meanwhile is marked, wherever the flag was", () => {
  const part = encodeMessage(16, Nlm.Multi, 1, new Uint8Array(16));
  const done = (flags: number) => encodeMessage(NLMSG_DONE, Nlm.Multi | flags, 1, int32(0));
  assert.equal(sortReplies([part, done(0)], 1, 1)[0]?.interrupted, false);
  assert.equal(sortReplies([part, done(Nlm.DumpInterrupted)], 1, 1)[0]?.interrupted, true);
  const early = encodeMessage(16, Nlm.Multi | Nlm.DumpInterrupted, 1, new Uint8Array(16));
  assert.equal(sortReplies([early, done(0)], 1, 1)[0]?.interrupted, true);
});

test("a request without any answer is an error, not a success", () => {
  const [reply] = sortReplies([], 1, 1);
  assert.throws(() => reply && requireSuccess(request, reply), NetlinkError);
});

test("a datagram cut anywhere, or random, is read without a fault", () => {
  const whole = concat(ack(1, 17), encodeMessage(16, 0, 2, attrString(3, "eth0")));
  for (let length = 0; length <= whole.length; length++) {
    assert.ok(decodeMessages(whole.subarray(0, length)).length <= 2);
    sortReplies([whole.subarray(0, length)], 1, 2);
  }
  for (let i = 0; i < 500; i++) {
    const noise = Uint8Array.from({ length: i % 97 }, () => Math.floor(Math.random() * 256));
    sortReplies([noise], 0, 3);
  }
});
