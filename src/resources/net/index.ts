/** A pod's network: reading the namespace, wiring it to taps, following it, undoing that, looking at it. */
export { attachPodNetwork, type PodReservation, reservePodNetwork } from "./attach.ts";
export { diagnose, type Finding, type HostFacts } from "./doctor.ts";
export { explain, formatTc } from "./explain.ts";
export { guestNetwork } from "./guest-network.ts";
export { type ForwardDestination, LocalhostForward, type LocalhostOptions } from "./localhost.ts";
export { isHostNetns, makeNetns, type Netns, type NetnsIdentity } from "./netns.ts";
export type { NetUndoRecord, NetworkModel, WiringModel } from "./plan.ts";
export { PodNetwork, type PodNic } from "./pod-network.ts";
export { type PodState, podLinks, readPodNetwork } from "./pod-state.ts";
export { type NetworkReport, showPodNetwork } from "./show.ts";
export { undoPodNetwork } from "./undo.ts";
export { VHOST_NET, type VhostMode } from "./vhost.ts";
export { type PodNetworkHandlers, PodNetworkWatch } from "./watch.ts";
export { type AttachOptions, MAX_QUEUES } from "./wiring.ts";
