/**
 * Suites of pods: one node for a file, and tests that play the same scenario on our runtime and on runc and compare
 * what came out. Where the two must differ, the test says why.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { hostCpuCount } from "../../src/base/host-cpu-count.ts";
import { CriHost, type CriHostInit, type Handler } from "./cri-host.ts";
import type { Pod, PodInit } from "./cri-pod.ts";

export interface Difference<T> {
  /** Why a virtual machine cannot or shall not behave as runc does here. */
  readonly why: string;
  check(ours: T, control: T): void;
}

export interface CriSuite {
  readonly host: () => CriHost;
  /**
   * A pod that the tests of the file share; made at its first use. `init` gives the same pod for the same object.
   */
  sharedPod(handler: Handler, init?: PodInit): Promise<Pod>;
  /** Runs `scenario` on both runtimes; `check` looks at each outcome, and the two must be equal. */
  compareTest<T>(
    name: string,
    scenario: (handler: Handler) => Promise<T>,
    check: ((outcome: T) => void) | Difference<T>,
  ): void;
  /**
   * A test of our runtime alone.
   * @param why there is nothing to compare it with.
   * @param leastCpus the host has to have them: with fewer the test is skipped.
   */
  ownTest(name: string, why: string, body: () => Promise<void>, leastCpus?: number): void;
}

const DEFAULT_POD: PodInit = {};

/** Call once, at the top of a test file. Its last test is that nothing of the pods is left. */
export function withCriHost(init: CriHostInit = {}): CriSuite {
  let started: CriHost | undefined;
  const pods = new Map<Handler, Map<PodInit, Promise<Pod>>>();
  const host = () => {
    if (started === undefined) throw new Error("the node is not started");
    return started;
  };
  before(async () => {
    started = await CriHost.start(init);
  });
  after(async () => {
    await started?.[Symbol.asyncDispose]();
  });
  const explained = async (body: () => Promise<void>) => {
    const logged = host().containerd.log().length;
    try {
      await body();
    } catch (error) {
      const log = host().containerd.log().slice(logged).trimEnd().split("\n").slice(-40).join("\n");
      const message = error instanceof Error ? error.message : String(error);
      throw new Error(`${message}\n--- containerd's log of this test ---\n${log}`, { cause: error });
    }
  };
  const suite: CriSuite = {
    host,
    sharedPod(handler, podInit = DEFAULT_POD) {
      const ofHandler = pods.get(handler) ?? new Map<PodInit, Promise<Pod>>();
      pods.set(handler, ofHandler);
      const existing = ofHandler.get(podInit);
      if (existing !== undefined) return existing;
      const created = host().runPod(handler, podInit);
      ofHandler.set(podInit, created);
      return created;
    },
    compareTest(name, scenario, check) {
      void test(name, () =>
        explained(async () => {
          const [ours, control] = await Promise.all([scenario("caisson"), scenario("runc")]);
          if (typeof check === "object") return check.check(ours, control);
          check(control);
          check(ours);
          assert.deepEqual(ours, control, "our runtime does not do what runc does");
        }),
      );
    },
    ownTest(name, _why, body, leastCpus = 1) {
      const skip = hostCpuCount() < leastCpus && `the host has fewer than ${leastCpus} cpus`;
      void test(name, { skip }, () => explained(body));
    },
  };
  return suite;
}

/** To be called at the end of a file that uses `withCriHost`: the last test. */
export function assertNothingLeftAtTheEnd({ host }: CriSuite): void {
  void test("nothing of the pods is left", () => host().assertNothingLeft());
}
