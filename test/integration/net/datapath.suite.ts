/** What crosses between the pod's interface and the guest, and what must not. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import {
  deleteTable,
  dumpChains,
  NFPROTO_NETDEV,
  nftBatch,
  nftDump,
  parseChain,
} from "../../../src/netlink/index.ts";
import { openNetns } from "../../../src/resources/net/netns.ts";
import { guardTable } from "../../../src/resources/net/plan-redirect.ts";
import { arpRequest, FRAME_KINDS, framesTowards, isArpReply, tsoFrame } from "./frames.ts";
import { type FrameSocket, HOST_IP, HOST_MAC, MODELS, makePod, POD_IP, POD_MAC } from "./pod-fixture.ts";

/** How long nothing must be heard. */
const LISTEN_MS = 10_000;
/** A frame that crosses does so within microseconds; this is for a machine that does other things. */
const ARRIVAL_MS = 2_000;

/** What does not reach the guest in the model macvtap; docs/networking.md. */
const MACVTAP_LACKS = new Set(["foreign unicast", "PAUSE"]);
const MACVTAP_TO_GUEST = FRAME_KINDS.filter((kind) => !MACVTAP_LACKS.has(kind));

async function cross(
  from: FrameSocket,
  to: FrameSocket,
  frames: ReadonlyMap<string, Buffer>,
): Promise<string[]> {
  const arrived: string[] = [];
  for (const [kind, bytes] of frames) {
    from.send(bytes);
    const limit = MACVTAP_LACKS.has(kind) ? 300 : ARRIVAL_MS;
    if ((await to.next((frame) => frame.equals(bytes), limit)) !== undefined) arrived.push(kind);
  }
  return arrived;
}

export function datapathSuite(): void {
  for (const model of MODELS) {
    test(`${model}: ${FRAME_KINDS.length} kinds of frame cross byte-exact in both directions`, async () => {
      const pod = await makePod();
      const attached = await pod.attach({ model });
      try {
        const toHost = await cross(attached.guest, pod.probe, framesTowards("host"));
        assert.deepEqual(toHost, FRAME_KINDS);
        const toGuest = await cross(pod.probe, attached.guest, framesTowards("guest"));
        assert.deepEqual(toGuest, model === "macvtap" ? MACVTAP_TO_GUEST : FRAME_KINDS);
      } finally {
        await attached.detach();
        pod.close();
      }
    });

    test(`${model}: the namespace's own stack sends nothing to the guest or to the wire in 10 s`, async () => {
      const pod = await makePod();
      const attached = await pod.attach({ model });
      try {
        pod.probe.take(); // what the namespace sent before it was wired
        attached.guest.take();
        await delay(LISTEN_MS);
        const heard = [...attached.guest.take(), ...pod.probe.take()].map(({ frame }) =>
          frame.toString("hex"),
        );
        assert.deepEqual(heard, []);
      } finally {
        await attached.detach();
        pod.close();
      }
    });

    test(`${model}: a 64 kB TSO frame crosses whole in both directions`, async () => {
      const pod = await makePod();
      const attached = await pod.attach({ model });
      try {
        for (const [from, to, mac, sender] of [
          [attached.guest, pod.probe, HOST_MAC, POD_MAC],
          [pod.probe, attached.guest, POD_MAC, HOST_MAC],
        ] as const) {
          const { header, frame } = tsoFrame(64_000, mac, sender);
          from.send(frame, header);
          const got = await to.next((bytes) => bytes.length > 1000, ARRIVAL_MS);
          assert.equal(got?.frame.length, frame.length);
          assert.ok(got.frame.equals(frame));
          assert.equal(got.header.readUInt8(1) & 0x7f, 1, "still marked as unsegmented TCP over IPv4");
          assert.equal(got.header.readUInt16LE(4), 1448, "segment size");
          assert.equal(got.header.readUInt8(0) & 1, 1, "checksum still to be filled in");
        }
      } finally {
        await attached.detach();
        pod.close();
      }
    });
  }

  test("the namespace answers ARP for the pod before wiring, and only the guest hears it afterwards", async () => {
    for (const model of MODELS) {
      const pod = await makePod();
      try {
        const request = arpRequest(POD_IP, HOST_IP);
        pod.probe.send(request);
        assert.ok(await pod.probe.next(isArpReply, ARRIVAL_MS), "the namespace's kernel answers");
        const attached = await pod.attach({ model });
        pod.probe.send(request);
        assert.ok(
          await attached.guest.next((frame) => frame.equals(request), ARRIVAL_MS),
          "the guest is asked",
        );
        assert.equal(await pod.probe.next(isArpReply, 200), undefined);
        await attached.detach();
        pod.probe.send(request);
        assert.ok(await pod.probe.next(isArpReply, ARRIVAL_MS), "the namespace answers again");
      } finally {
        pod.close();
      }
    }
  });

  for (const model of ["tcfilter", "ebpf"] as const) {
    test(`${model}: with its filters lost the guard chains drop, and the kernel does not answer for the pod`, async () => {
      const pod = await makePod();
      const attached = await pod.attach({ model });
      const netns = openNetns(pod.netnsPath);
      try {
        await pod.inPod("tc qdisc del dev eth0 ingress 2>/dev/null || tc qdisc del dev eth0 clsact");
        for (let i = 0; i < 3; i++) pod.probe.send(arpRequest(POD_IP, HOST_IP));
        assert.equal(await pod.probe.next(isArpReply, 300), undefined);
        const chains = (await nftDump(netns.fd, dumpChains(NFPROTO_NETDEV))).map((m) =>
          parseChain(m.payload),
        );
        const guard = chains.find(
          (chain) => chain.table === guardTable("tap0_caisson") && chain.name === "eth0-in",
        );
        assert.equal(guard?.packets, 3);
        // And what the namespace itself would send never leaves.
        pod.probe.take();
        const dial = `bash -c 'echo hi > /dev/udp/${HOST_IP}/9'`;
        await pod.inPod(`ip neigh replace ${HOST_IP} lladdr ${HOST_MAC} dev eth0; ${dial} || true`);
        await delay(100);
        assert.deepEqual(pod.probe.take(), []);
        // The control: without the guard it does leave
        await nftBatch(netns.fd, [deleteTable(NFPROTO_NETDEV, guardTable("tap0_caisson"))]);
        await pod.inPod(dial);
        assert.ok(await pod.probe.next((frame) => frame.readUInt16BE(12) === 0x0800, ARRIVAL_MS));
      } finally {
        netns.close();
        await attached.detach();
        pod.close();
      }
    });
  }
}
