/** Namespaces that change or are busy while they are wired, and kernels without nf_tables. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { errnoOf } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import {
  addMacvtap,
  type NetlinkReply,
  type NetlinkRequest,
  NetlinkSocket,
} from "../../../src/netlink/index.ts";
import { executePlan, StepError } from "../../../src/resources/net/execute.ts";
import { type NetUndoRecord, reservePodNetwork, undoPodNetwork } from "../../../src/resources/net/index.ts";
import { openNetns } from "../../../src/resources/net/netns.ts";
import type { PlanStep } from "../../../src/resources/net/plan.ts";
import { readPodState } from "../../../src/resources/net/pod-state.ts";
import { arpRequest, framesTowards, isArpReply } from "./frames.ts";
import { HOST_IP, makePod, POD_IP, recordingLog, snapshot } from "./pod-fixture.ts";

/** An interface that a bridge has taken: a macvtap on top of it is refused with EBUSY until the bridge lets it go. */
const BUSY =
  "ip link add br0 type bridge; ip link add busy0 type veth peer name busy1; ip link set busy0 master br0";

/** Lets go of what is busy when it is tried for the third time. */
class FreeingSocket extends NetlinkSocket {
  readonly #free: () => Promise<unknown>;
  retries = 0;

  constructor(fd: number, free: () => Promise<unknown>) {
    super(fd);
    this.#free = free;
  }

  override async exchange(requests: readonly NetlinkRequest[]): Promise<NetlinkReply[]> {
    this.retries += 1;
    if (this.retries === 2) await this.#free();
    return await super.exchange(requests);
  }
}

export function conflictSuite(): void {
  test("what the kernel says is busy is tried again until it is free, and named when it stays so", async () => {
    const pod = await makePod();
    const netns = openNetns(pod.netnsPath);
    try {
      await pod.inPod(BUSY);
      const { state, socket } = await readPodState(netns.fd);
      const index = state.links.find((link) => link.name === "busy0")?.index ?? 0;
      const macvtap = {
        name: "over0",
        index: 99,
        lowerIndex: index,
        mac: "02:ca:15:50:00:77",
        mtu: 1500,
        queues: 1,
      };
      const request = addMacvtap(macvtap);
      const steps: PlanStep[] = [{ name: "over0", action: { do: "route", request } }];
      await assert.rejects(executePlan({ steps }, netns.fd, socket, silentLog), (error) => {
        assert.ok(error instanceof StepError);
        assert.deepEqual([error.step.name, errnoOf(error)], ["over0", "EBUSY"]);
        return true;
      });
      const freeing = new FreeingSocket(socket.fd, () => pod.inPod("ip link set busy0 nomaster"));
      await executePlan({ steps }, netns.fd, freeing, silentLog);
      assert.equal(freeing.retries, 2);
      assert.match(await pod.inPod("ip link show over0"), /over0@busy0/);
      socket.close();
    } finally {
      netns.close();
      pod.close();
    }
  });

  for (const model of ["tcfilter", "ebpf"] as const) {
    test(`${model}: a qdisc that somebody adds between reading and wiring is found, used and left`, async () => {
      const pod = await makePod();
      try {
        let attempts = 0;
        const log = recordingLog();
        const attached = await pod.attach({ model, log }, async (...args) => {
          attempts++;
          if (attempts === 1) await pod.inPod("tc qdisc add dev eth0 clsact");
          return await executePlan(...args);
        });
        assert.deepEqual([attempts, attached.network.model, log.warnings], [2, model, []]);
        const bytes = framesTowards("guest").get("unicast") ?? Buffer.alloc(0);
        pod.probe.send(bytes);
        assert.ok(await attached.guest.next((frame) => frame.equals(bytes), 2_000));
        await attached.detach();
        assert.match(await pod.inPod("tc qdisc show dev eth0"), /clsact/);
        assert.doesNotMatch(await pod.inPod("tc filter show dev eth0 ingress; ip link"), /caisson/);
      } finally {
        pod.close();
      }
    });

    test(`${model}: what changes after the planning is met: a qdisc, an interface with the tap's index, an MTU`, async () => {
      const pod = await makePod();
      try {
        const log = recordingLog();
        const options = { netnsPath: pod.netnsPath, model, queues: 1, vhost: "off", log } as const;
        const reservation = await reservePodNetwork(options);
        await pod.inPod(
          "tc qdisc add dev eth0 clsact; ip link add taken0 index 3 type veth peer name taken1 index 4; ip link set eth0 mtu 1400",
        );
        const records = new Set<NetUndoRecord>();
        let undone = 0;
        const journal = (record: NetUndoRecord) => {
          records.add(record);
          return () => {
            undone++;
            records.delete(record);
          };
        };
        const network = await reservation.attach(journal, AbortSignal.timeout(20_000));
        const tap = await pod.inPod("ip -o link show tap0_caisson");
        assert.match(tap, /^5: .* mtu 1400 /);
        assert.match(await pod.inPod("tc filter show dev eth0 ingress"), /pref 49152/);
        assert.deepEqual([network.model, network.nics[0]?.mtu, log.warnings], [model, 1400, []]);
        assert.ok(undone > 0, "a plan that failed is no longer in the journal");
        // As after kill -9: what a plan that failed would have made is somebody else's.
        for (const record of records) await undoPodNetwork(record);
        assert.match(await pod.inPod("tc qdisc show dev eth0"), /clsact/);
        await network.detach();
        assert.match(await pod.inPod("tc qdisc show dev eth0"), /clsact/);
        assert.doesNotMatch(await pod.inPod("tc filter show dev eth0 ingress; ip link"), /caisson/);
      } finally {
        pod.close();
      }
    });

    test(`${model}: without nf_tables a last filter guards, with a warning, and is taken back`, async () => {
      const pod = await makePod();
      try {
        const before = await snapshot(pod);
        const log = recordingLog();
        // As a kernel without the netdev family answers: the messages name a family that there is not.
        const attached = await pod.attach({ model, log }, (plan, ...rest) => {
          const steps = plan.steps.map((step) => {
            if (step.action.do !== "nft") return step;
            const requests = step.action.requests.map((request) => ({
              ...request,
              payload: Uint8Array.of(99, ...request.payload.subarray(1)),
            }));
            return { ...step, action: { ...step.action, requests } };
          });
          return executePlan({ steps }, ...rest);
        });
        assert.match(
          log.warnings.join("\n"),
          /no nf_tables netdev family, so a last tc filter guards instead/,
        );
        const bytes = framesTowards("guest").get("unicast") ?? Buffer.alloc(0);
        pod.probe.send(bytes);
        assert.ok(await attached.guest.next((frame) => frame.equals(bytes), 2_000));
        const side = model === "ebpf" ? "ingress" : "parent ffff:";
        await pod.inPod(`tc filter del dev eth0 ${side} pref 49152`);
        pod.probe.send(arpRequest(POD_IP, HOST_IP));
        assert.equal(
          await pod.probe.next(isArpReply, 300),
          undefined,
          "the kernel does not answer for the pod",
        );
        await attached.detach();
        assert.equal(await snapshot(pod), before);
      } finally {
        pod.close();
      }
    });
  }
}
