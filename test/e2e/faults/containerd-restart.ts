/** containerd dies and another takes over what ran, and what was just being made. */
import { testCells } from "../../faults/cell-tests.ts";
import type { ContainerdVersion } from "../../harness/containerd.ts";

export const restartSuite = (version: ContainerdVersion): void =>
  testCells(
    [
      "containerd killed and started again @ two running containers: wait, stdio, exec",
      "containerd @ container.mounted",
    ],
    { version },
  );
