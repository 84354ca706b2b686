/** Descriptors: none is left open. In a process of its own, where nothing else opens any. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { errnoOf } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import { executePlan, StepError } from "../../../src/resources/net/execute.ts";
import { attachPodNetwork, reservePodNetwork } from "../../../src/resources/net/index.ts";
import { assertNoneOpenedSince, openDescriptors } from "../../harness/descriptors.ts";
import { planFor } from "./plan-for.ts";
import { MODELS, makePod, snapshot } from "./pod-fixture.ts";

test("attach and detach leave no descriptor open, in each model", async () => {
  const pod = await makePod();
  try {
    for (const model of MODELS) await (await pod.attach({ model })).detach(); // loads what is loaded once
    const fds = openDescriptors();
    for (const model of [...MODELS, "none"] as const) {
      for (let i = 0; i < 3; i++) await (await pod.attach({ model, queues: 2 })).detach();
    }
    assertNoneOpenedSince(fds);
  } finally {
    pod.close();
  }
});

test("a reservation changes nothing in the namespace, and its release leaves no descriptor", async () => {
  const pod = await makePod();
  try {
    const before = await snapshot(pod);
    const fds = openDescriptors();
    for (const model of [...MODELS, "none"] as const) {
      const options = { netnsPath: pod.netnsPath, model, queues: 2, vhost: "off", log: silentLog } as const;
      const reservation = await reservePodNetwork(options);
      assert.equal(await snapshot(pod), before);
      reservation.release();
    }
    await assert.rejects(
      reservePodNetwork({
        netnsPath: "/run/netns/caisson-gone",
        model: "ebpf",
        queues: 1,
        vhost: "off",
        log: silentLog,
      }),
      { code: "ERR_NOT_FOUND" },
    );
    assertNoneOpenedSince(fds);
  } finally {
    pod.close();
  }
});

test("an aborted attach leaves neither descriptors nor interfaces", async () => {
  const pod = await makePod();
  try {
    const fds = openDescriptors();
    const abort = new AbortController();
    await assert.rejects(
      attachPodNetwork(
        {
          netnsPath: pod.netnsPath,
          model: "tcfilter",
          queues: 1,
          vhost: "off",
          log: silentLog,
          journal: () => {
            abort.abort(new Error("given up"));
            return undefined;
          },
        },
        abort.signal,
      ),
      { message: "given up" },
    );
    assertNoneOpenedSince(fds);
    assert.doesNotMatch(await pod.inPod("ip link show; tc qdisc show"), /caisson|ingress/);
  } finally {
    pod.close();
  }
});

test("a step that the kernel refuses is named, with the kernel's reason, and its descriptors are closed", async () => {
  const pod = await makePod();
  try {
    const fds = openDescriptors();
    const { plan, socket, netns } = await planFor(pod, "tcfilter", 2); // the index of eth0
    await assert.rejects(executePlan(plan, netns.fd, socket, silentLog), (error) => {
      assert.ok(error instanceof StepError);
      assert.equal(error.message, "cannot set up the tap tap0_caisson");
      assert.equal(errnoOf(error), "EBUSY");
      return true;
    });
    socket.close();
    netns.close();
    assertNoneOpenedSince(fds);
  } finally {
    pod.close();
  }
});
