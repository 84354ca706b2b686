/** The figures of a pod: those of its containers added up, without limits: a pod has none of its own here. */
import { create } from "@bufbuild/protobuf";
import {
  type ContainerStatsResponse,
  ContainerStatsResponseSchema,
} from "../gen/caisson/agent/v1/agent_pb.ts";

/** "max", as the guest sends it. */
const NO_LIMIT = 2n ** 64n - 1n;

type Figures = Readonly<Record<string, bigint>>;

/** Adds the values of equal keys. */
function addFigures(all: readonly Figures[]): Record<string, bigint> {
  const sum: Record<string, bigint> = {};
  for (const figures of all) {
    for (const [key, value] of Object.entries(figures)) sum[key] = (sum[key] ?? 0n) + value;
  }
  return sum;
}

const counters = (message: object | undefined): Figures =>
  Object.fromEntries(
    Object.entries(message ?? {}).filter((entry): entry is [string, bigint] => typeof entry[1] === "bigint"),
  );

/** Pure. The interfaces are the pod's already, so those of the first are everyone's. */
export function podStats(containers: readonly ContainerStatsResponse[]): ContainerStatsResponse {
  const memory = addFigures(containers.map((one) => counters(one.memory)));
  const pids = addFigures(containers.map((one) => counters(one.pids)));
  return create(ContainerStatsResponseSchema, {
    cpu: addFigures(containers.map((one) => counters(one.cpu))),
    memory: {
      ...memory,
      usageLimit: NO_LIMIT,
      swapLimit: NO_LIMIT,
      stat: addFigures(containers.map((one) => one.memory?.stat ?? {})),
      events: addFigures(containers.map((one) => one.memory?.events ?? {})),
    },
    pids: { ...pids, limit: NO_LIMIT },
    io: containers.flatMap((one) => one.io),
    hugetlb: [],
    interfaces: containers[0]?.interfaces ?? [],
  });
}
