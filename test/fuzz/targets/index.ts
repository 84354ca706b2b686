/** Every target, in the order in which they run. */
import type { Target } from "../target.ts";
import { containerdTargets } from "./containerd.ts";
import { guestTargets } from "./guest.ts";
import { machineTargets } from "./machine.ts";
import { nodeTargets } from "./node-files.ts";
import { streamTargets } from "./streams.ts";
import { ttrpcTargets } from "./ttrpc.ts";

export const targets: readonly Target[] = [
  ...ttrpcTargets,
  ...streamTargets,
  ...machineTargets,
  ...containerdTargets,
  ...nodeTargets,
  ...guestTargets,
];
