/** Cells of the fault matrix as tests that share a host. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { FaultHost, type FaultHostInit } from "./fault-host.ts";
import { type Cell, cellName, cellNamed, runCell } from "./matrix.ts";

export const testCells = (names: readonly string[], init: FaultHostInit = {}): void =>
  testAll(names.map(cellNamed), init);

export function testAll(cells: readonly Cell[], init: FaultHostInit = {}): void {
  let host: FaultHost | undefined;
  before(async () => {
    host = await FaultHost.start(init);
  });
  after(async () => {
    await host?.[Symbol.asyncDispose]();
  });
  for (const cell of cells) {
    void test(cellName(cell), async () => {
      host ??= await FaultHost.start(init);
      const { problems } = await runCell(host, cell);
      if (problems.length === 0) return;
      const log = host.containerd.logTail(60);
      // What is left must not fail the next one too.
      await host[Symbol.asyncDispose]();
      host = undefined;
      assert.fail(`${problems.join("\n")}\n${log}`);
    });
  }
}
