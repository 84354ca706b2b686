/** The sizes that a configuration allows for machines of this host. */
import os from "node:os";
import { hostCpuCount } from "../base/host-cpu-count.ts";
import type { Config } from "../config/index.ts";
import type { SizeLimits } from "./sizing.ts";

const MIB = 1 << 20;

export function hostSizeLimits({ hypervisor }: Config): SizeLimits {
  const hostCpus = hostCpuCount();
  const hostMemoryMiB = Math.floor(os.totalmem() / MIB);
  const { defaultVcpus, defaultMaxvcpus, defaultMemory, defaultMaxmemory } = hypervisor;
  const baseCpus = defaultVcpus < 0 ? hostCpus : Math.max(1, defaultVcpus);
  return {
    baseCpus,
    maxCpus: Math.max(baseCpus, defaultMaxvcpus || hostCpus),
    baseMemoryMiB: defaultMemory,
    maxMemoryMiB: Math.max(defaultMemory, defaultMaxmemory || hostMemoryMiB),
  };
}
