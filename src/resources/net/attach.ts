/** Joins a pod's interfaces to taps that QEMU inherits. */
import type { NetlinkSocket } from "../../netlink/index.ts";
import type { executePlan } from "./execute.ts";
import { openNetns, refuseHostNetns } from "./netns.ts";
import { PodNetwork } from "./pod-network.ts";
import { podLinks, readPodState } from "./pod-state.ts";
import { type AttachOptions, refuseTaken, wireLinks } from "./wiring.ts";

/**
 * Reads the namespace, wires every interface that is the pod's and says what the guest is to be told.
 * @param execute for tests, which refuse a step with it.
 * @throws SandboxError ERR_INVALID_ARGUMENT for the host's namespace, ERR_NOT_FOUND for none, ERR_ALREADY_EXISTS when
 *   another microVM is attached to it, ERR_HOST with the step that the kernel refused. Nothing is left behind then.
 */
export async function attachPodNetwork(
  options: AttachOptions,
  signal: AbortSignal,
  execute?: typeof executePlan,
): Promise<PodNetwork> {
  signal.throwIfAborted();
  const netns = openNetns(options.netnsPath);
  let socket: NetlinkSocket | undefined;
  try {
    refuseHostNetns(netns);
    if (options.model === "none") return new PodNetwork(options, netns, undefined);
    const read = await readPodState(netns.fd);
    socket = read.socket;
    refuseTaken(read.state);
    const context = { options, netns, socket, signal, ...(execute === undefined ? {} : { execute }) };
    const wired = await wireLinks(context, read.state, options.model, podLinks);
    return new PodNetwork(options, netns, wired);
  } catch (error) {
    netns.close();
    throw error;
  } finally {
    socket?.close();
  }
}
