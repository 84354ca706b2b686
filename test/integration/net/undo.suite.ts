/** Taking the wiring back: in order, from the journal alone, and many times. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { errnoOf } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import { closeFd } from "../../../src/native/fd.ts";
import { bpfCall } from "../../../src/native/net.ts";
import {
  dumpFilters,
  NetlinkProtocol,
  NetlinkSocket,
  parseBpf,
  parseFilter,
  TC_CLSACT_IN,
} from "../../../src/netlink/index.ts";
import { executePlan } from "../../../src/resources/net/execute.ts";
import { LocalhostForward, undoPodNetwork } from "../../../src/resources/net/index.ts";
import { openNetns } from "../../../src/resources/net/netns.ts";
import { undoRecordOf, type WiringPlan } from "../../../src/resources/net/plan.ts";
import { planFor } from "./plan-for.ts";
import { MODELS, makePod, type Pod, snapshot } from "./pod-fixture.ts";

/** Cycles of wiring and unwiring, over all pods of the test. */
const CYCLES = Number(process.env.CAISSON_NET_CYCLES ?? "500");

async function executePrefix(
  plan: WiringPlan,
  count: number,
  netnsFd: number,
  socket: NetlinkSocket,
): Promise<number[]> {
  const { tapFds } = await executePlan({ steps: plan.steps.slice(0, count) }, netnsFd, socket, silentLog);
  return [...tapFds.values()].flat();
}

/** Pods that are wired at the same time, and how often each is before it is replaced by a new one. */
const LANES = 5;
const CYCLES_PER_POD = 20;

/** This process's descriptors of programs, maps and links of bpf(2). */
function bpfDescriptors(): string[] {
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return /bpf[-_]/.test(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      return false; // the directory's own
    }
  });
}

/** IDs of the programs behind the links that this process holds: LocalhostForward's, each with its map. */
function linkPrograms(): number[] {
  return bpfDescriptors().flatMap((fd) => {
    const id = /^prog_id:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1];
    return id === undefined ? [] : [Number(id)];
  });
}

/** IDs of the programs that our filters on eth0 and the tap run. */
async function programIds(pod: Pod): Promise<number[]> {
  const netns = openNetns(pod.netnsPath);
  const socket = await NetlinkSocket.open(netns.fd, NetlinkProtocol.Route);
  try {
    const ids = [2, 3].map(async (index) =>
      (await socket.dump(dumpFilters(index, TC_CLSACT_IN)))
        .map((message) => parseBpf(parseFilter(message.payload).options).programId)
        .filter((id) => id > 0),
    );
    return (await Promise.all(ids)).flat();
  } finally {
    socket.close();
    netns.close();
  }
}

/** BPF_PROG_GET_FD_BY_ID, linux/bpf.h. */
const BPF_PROG_GET_FD_BY_ID = 13;

function programExists(id: number): boolean {
  const attributes = new Uint8Array(12);
  new DataView(attributes.buffer).setUint32(0, id, true);
  try {
    closeFd(bpfCall(BPF_PROG_GET_FD_BY_ID, attributes));
    return true;
  } catch (error) {
    assert.equal(errnoOf(error), "ENOENT");
    return false;
  }
}

export function undoSuite(): void {
  for (const model of MODELS) {
    for (const held of [false, true]) {
      const how = held ? "while QEMU still holds the tap" : "after all processes died";
      test(`${model}: killed after any step, the journal alone restores the namespace, ${how}`, async () => {
        const pod = await makePod();
        try {
          const before = await snapshot(pod);
          const steps = (await planFor(pod, model)).plan.steps.length;
          for (let done = 0; done <= steps; done++) {
            const { plan, socket, netns } = await planFor(pod, model);
            const record: unknown = JSON.parse(JSON.stringify(undoRecordOf(plan, netns)));
            const fds = await executePrefix(plan, done, netns.fd, socket);
            socket.close();
            netns.close();
            if (!held) for (const fd of fds) closeFd(fd);
            await undoPodNetwork(record);
            assert.equal(await snapshot(pod), before, `after ${done} steps`);
            await undoPodNetwork(record);
            assert.equal(await snapshot(pod), before, `undone twice after ${done} steps`);
            if (held) for (const fd of fds) closeFd(fd);
          }
        } finally {
          pod.close();
        }
      });
    }
  }

  test("undo of a record whose namespace is gone, or is another one by now, does nothing", async () => {
    const [pod, other] = [await makePod(), await makePod()];
    const attached = await pod.attach({ model: "tcfilter" });
    const [record] = attached.records;
    try {
      assert.ok(record);
      const before = await snapshot(pod);
      await undoPodNetwork({ ...record, netns: { ...record.netns, path: "/run/netns/caisson-gone" } });
      await undoPodNetwork({ ...record, netns: { ...record.netns, path: "/etc/hostname" } });
      await undoPodNetwork({ ...record, netns: { ...record.netns, path: other.netnsPath } });
      assert.equal(await snapshot(pod), before);
      await assert.rejects(undoPodNetwork({ version: 2 }), { code: "ERR_INVALID_ARGUMENT" });
    } finally {
      await attached.detach();
      pod.close();
      other.close();
    }
  });

  for (const model of MODELS) {
    test(`${model}: detach() and the journal both succeed after CNI has removed the interface`, async () => {
      const pod = await makePod();
      try {
        const attached = await pod.attach({ model });
        await pod.inPod("ip link del eth0");
        await undoPodNetwork(attached.records[0]);
        await attached.detach();
        assert.doesNotMatch(await pod.inPod("ip link show"), /caisson/);
      } finally {
        pod.close();
      }
    });
  }

  test("a filter that somebody added meanwhile keeps our qdisc alive", async () => {
    const pod = await makePod();
    try {
      const attached = await pod.attach({ model: "tcfilter" });
      await pod.inPod(
        "tc filter add dev eth0 parent ffff: pref 7 protocol 0x88b6 u32 match u8 0 0 action mirred egress redirect dev lo",
      );
      await attached.detach();
      const left = await pod.inPod("tc filter show dev eth0 parent ffff:");
      assert.match(left, /pref 7 u32/);
      assert.doesNotMatch(left, /tap0_caisson|pref 49152/);
    } finally {
      pod.close();
    }
  });

  test(`${CYCLES} cycles of wiring and unwiring leave links, filters, qdiscs, chains, maps and programs even`, async () => {
    const programs: number[] = [];
    let left = CYCLES;
    const lane = async (i: number) => {
      for (let pods = 0; left > 0; pods++) {
        const pod = await makePod();
        try {
          const before = await snapshot(pod);
          for (let cycle = 0; left > 0 && cycle < CYCLES_PER_POD; cycle++) {
            left--;
            const model = MODELS[(i + cycle) % MODELS.length] ?? "tcfilter";
            const attached = await pod.attach({ model });
            const forward = await LocalhostForward.open({
              netnsPath: pod.netnsPath,
              dial: () => Promise.reject(new Error("nobody dials")),
              log: silentLog,
            });
            // Every cycle would take as long as the wiring itself.
            if (cycle < 3)
              programs.push(...linkPrograms(), ...(model === "ebpf" ? await programIds(pod) : []));
            await forward.close();
            await attached.detach();
          }
          assert.equal(await snapshot(pod), before, `pod ${pods} of lane ${i}`);
        } finally {
          pod.close();
        }
      }
    };
    await Promise.all(Array.from({ length: LANES }, (_, i) => lane(i)));
    assert.ok(programs.length > 0);
    // A program ends a grace period after its last user, and its maps with it unless a descriptor holds them.
    for (let i = 0; i < 50 && programs.some(programExists); i++) await delay(100);
    assert.deepEqual(programs.filter(programExists), []);
    assert.deepEqual(bpfDescriptors(), []);
  });
}
