/** Wiring of pod networks in real namespaces. One process, tests side by side, so that the long listening costs little. */
import { describe } from "node:test";
import { attachSuite } from "./attach.suite.ts";
import { conflictSuite } from "./conflict.suite.ts";
import { datapathSuite } from "./datapath.suite.ts";
import { localhostSuite } from "./localhost.suite.ts";
import { showSuite } from "./show.suite.ts";
import { undoSuite } from "./undo.suite.ts";
import { watchSuite } from "./watch.suite.ts";

describe("pod network", { concurrency: 6, timeout: 120_000 }, () => {
  datapathSuite();
  attachSuite();
  conflictSuite();
  localhostSuite();
  showSuite();
  undoSuite();
  watchSuite();
});
