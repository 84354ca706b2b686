/** Ten pods at once, with two containers each: they start, answer, stop and leave nothing. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import type { PodContainer } from "../../harness/cri-pod.ts";
import { assertNothingLeftAtTheEnd, withCriHost } from "../../harness/cri-suite.ts";

const suite = withCriHost({ config: { "hypervisor.qemu.default_memory": 128 } });
const { host, ownTest } = suite;
const PODS = 10;

/** A guest that booted on a busy host must not have got the speed of its clock wrong. */
async function assertClock(container: PodContainer): Promise<void> {
  const read = async () => {
    const asked = performance.now();
    const seconds = Number((await container.ok("cat /proc/uptime")).split(" ")[0]);
    return { asked, answered: performance.now(), seconds };
  };
  const first = await read();
  await sleep(1_000);
  const second = await read();
  const passed = (second.seconds - first.seconds) * 1000;
  const atLeast = second.asked - first.answered;
  const atMost = second.answered - first.asked;
  assert.ok(
    passed > atLeast * 0.95 && passed < atMost * 1.05,
    `${passed} ms passed in the guest, ${atLeast} to ${atMost} ms outside`,
  );
}

ownTest(
  "ten pods start, run and stop at once, each in a machine of its own and with an address of its own",
  "with runc there is nothing to run out of",
  async () => {
    const pods = await Promise.all(Array.from({ length: PODS }, () => host().runPod("caisson")));
    const answers = await Promise.all(
      pods.map(async (pod) => {
        const [first, second] = await Promise.all([pod.run(), pod.run()]);
        const [bootId, same] = await Promise.all(
          [first, second].map((one) => one.ok("cat /proc/sys/kernel/random/boot_id")),
        );
        assert.equal(bootId, same);
        return { first, bootId, address: (await pod.status()).network?.ip };
      }),
    );
    await Promise.all(answers.map(({ first }) => assertClock(first)));
    assert.equal(new Set(answers.map(({ bootId }) => bootId)).size, PODS);
    assert.equal(new Set(answers.map(({ address }) => address)).size, PODS);
    const machines = host()
      .world.processes()
      .filter((p) => p.commandLine.includes("qemu-system"));
    assert.equal(machines.length, PODS);
    await Promise.all(pods.map((pod) => host().release(pod)));
  },
);

assertNothingLeftAtTheEnd(suite);
