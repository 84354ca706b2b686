/** The counters of a pod's interfaces, in the fields that both versions of the metrics message have. */
import type { ContainerStatsResponse } from "../gen/caisson/agent/v1/agent_pb.ts";

/** Without the guest's loopback, which carries nothing of the pod's traffic. */
export const podInterfaces = (interfaces: ContainerStatsResponse["interfaces"]) =>
  interfaces
    .filter(({ name }) => name !== "lo")
    .map(({ $typeName: _type, $unknown: _unknown, ...counters }) => counters);
