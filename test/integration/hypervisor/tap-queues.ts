/** Tap descriptors for tests of the machine alone, in a network namespace that goes with them. */
import { closeSync } from "node:fs";
import { runInNetns } from "../../../src/native/net.ts";
import { tapOperations } from "../../../src/resources/net/tap-device.ts";

export interface TestTap extends AsyncDisposable {
  readonly fds: readonly number[];
}

export async function openTapQueues(queues: number): Promise<TestTap> {
  const { operations, opens } = tapOperations({ name: "tap0", index: 4711, queues }, 1);
  const results = await runInNetns(undefined, [{ do: "unshare-net" }, ...operations]);
  // The namespace made has a descriptor too.
  const all = results.flatMap((result) => (result.fd === undefined ? [] : [result.fd]));
  const close = () => {
    for (const fd of all) closeSync(fd);
  };
  const fds = opens.flatMap((at) => results[at]?.fd ?? []);
  const failed = results.find((result) => result.errno !== 0);
  if (failed !== undefined) {
    close();
    throw new Error(`the tap could not be made: errno ${failed.errno}`);
  }
  return { fds, [Symbol.asyncDispose]: async () => close() };
}
