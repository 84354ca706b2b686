/** Runs targets in a worker thread and watches it: a hang and a death are failures with an input, like any other. */
import { Worker } from "node:worker_threads";
import { MAX_INPUT_BYTES } from "./mutate.ts";
import type { Failure, Summary } from "./session.ts";
import { SharedState } from "./shared-state.ts";
import type { Target } from "./target.ts";
import { targets } from "./targets/index.ts";
import type { WorkerReport, WorkerTask } from "./worker.ts";

/** Processor time that one input may take before it counts as hanging: far above what is slow. */
const HANG_MS = 20_000;
const LOOK_MS = 500;
/** Of the thread's heap; more is a death, which is a failure. */
const HEAP_MIB = 512;
/** Inputs of the corpus may be larger than those that are made. */
const SHARED_BYTES = 4 * MAX_INPUT_BYTES;

export interface CampaignInit {
  readonly chosen: readonly Target[];
  readonly seed: number;
  /** Of each target. */
  readonly secondsEach: number;
  /** After each target; a failure does not end the campaign. */
  readonly onResult: (result: Summary | Failure) => void;
}

export const isFailure = (result: Summary | Failure): result is Failure => "reason" in result;

export async function runCampaign(init: CampaignInit): Promise<readonly (Summary | Failure)[]> {
  const results: (Summary | Failure)[] = [];
  const take = (result: Summary | Failure) => {
    results.push(result);
    init.onResult(result);
  };
  let rest = init.chosen.map((target) => targets.indexOf(target));
  while (rest.length > 0) {
    const { done, died } = await runWorker(rest, init, take);
    rest = rest.filter((index) => !done.includes(index));
    if (died !== undefined) {
      take({
        target: targets[died.index]?.name ?? "",
        seed: init.seed,
        iteration: 0,
        input: died.input,
        reason: died.reason,
      });
      rest = rest.filter((index) => index !== died.index);
    }
  }
  return results;
}

interface WorkerEnd {
  readonly done: readonly number[];
  readonly died: { readonly index: number; readonly input: Uint8Array; readonly reason: string } | undefined;
}

function runWorker(
  chosen: readonly number[],
  { seed, secondsEach }: CampaignInit,
  take: (result: Summary | Failure) => void,
): Promise<WorkerEnd> {
  const shared = SharedState.allocate(SHARED_BYTES);
  const task: WorkerTask = { shared: shared.buffer, chosen, seed, seconds: secondsEach };
  const worker = new Worker(new URL("worker-entry.mjs", import.meta.url), {
    workerData: task,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB },
  });
  const done: number[] = [];
  return new Promise((resolve, reject) => {
    let reason: string | undefined;
    let last = { begun: -1, cpu: process.cpuUsage() };
    const watch = setInterval(() => {
      if (shared.begun !== last.begun) last = { begun: shared.begun, cpu: process.cpuUsage() };
      else if (shared.begun > 0 && process.cpuUsage(last.cpu).user > HANG_MS * 1000) {
        reason = `it hangs: no end after ${HANG_MS / 1000} s of processor time`;
        void worker.terminate();
      }
    }, LOOK_MS);
    worker.on("message", (report: WorkerReport) => {
      done.push(report.index);
      take(report.result);
    });
    worker.once("error", (error: Error) => {
      reason = `the thread died: ${error.message}`;
      if (shared.begun === 0) reject(error); // before the first input: the fault is in the harness
    });
    worker.once("exit", () => {
      clearInterval(watch);
      const complete = done.length === chosen.length;
      const died = { index: shared.target, input: shared.input, reason: reason ?? "the thread ended early" };
      resolve({ done, died: complete ? undefined : died });
    });
  });
}
