/** The thread in which targets run, one after the other. */
import { parentPort, workerData } from "node:worker_threads";
import { type Failure, runSession, type Summary } from "./session.ts";
import { SharedState } from "./shared-state.ts";
import { targets } from "./targets/index.ts";

export interface WorkerTask {
  readonly shared: SharedArrayBuffer;
  /** Indexes into `targets`. */
  readonly chosen: readonly number[];
  readonly seed: number;
  /** Of each target. */
  readonly seconds: number;
}

export type WorkerReport = { readonly index: number; readonly result: Summary | Failure };

const task = workerData as WorkerTask;
const shared = new SharedState(task.shared);
for (const index of task.chosen) {
  const target = targets[index];
  if (target === undefined) throw new Error(`there is no target ${index}`);
  const result = await runSession({
    target,
    seed: task.seed,
    seconds: task.seconds,
    begin: (input) => shared.begin(index, input),
  });
  parentPort?.postMessage({ index, result } satisfies WorkerReport);
}
