/** Plans as attachPodNetwork() makes them, for tests that execute them in part. */
import { openNetns } from "../../../src/resources/net/netns.ts";
import type { WiringModel } from "../../../src/resources/net/plan.ts";
import { chooseMacvtapIndex, planMacvtap } from "../../../src/resources/net/plan-macvtap.ts";
import { planRedirect } from "../../../src/resources/net/plan-redirect.ts";
import { podLinks, readPodState } from "../../../src/resources/net/pod-state.ts";
import type { Pod } from "./pod-fixture.ts";

/** The plan for the pod as it is now, with a socket to execute it; the caller closes the socket. */
export async function planFor(pod: Pod, model: WiringModel, index = 10) {
  const netns = openNetns(pod.netnsPath);
  const { state, socket } = await readPodState(netns.fd);
  const targets = podLinks(state).map((link) => ({
    link,
    tap: { name: "tap0_caisson", index: model === "macvtap" ? chooseMacvtapIndex() : index, queues: 2 },
    present: undefined,
    foreign: [],
  }));
  const plan = model === "macvtap" ? planMacvtap(state, targets) : planRedirect(model, targets);
  return { plan, socket, netns };
}
