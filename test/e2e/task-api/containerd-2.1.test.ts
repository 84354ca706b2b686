/** The Task API through containerd 2.1, and what only containerd 2 asks for. */
import assert from "node:assert/strict";
import { VERSION } from "../../../src/base/version.ts";
import { runtimeFeatures } from "../../../src/shim/runtime-info.ts";
import { CAISSON_RUNTIME } from "../../harness/test-host.ts";
import { coreSuite } from "./core-suite.ts";

const { ledgeredTest } = coreSuite("2.1");

ledgeredTest(
  "containerd learns name, version and features of the runtime (-info)",
  async ({ containerd }) => {
    const { stdout } = await containerd.ctrOk(["plugins", "inspect-runtime", "--runtime", CAISSON_RUNTIME]);
    const info = JSON.parse(stdout) as { Name: string; Version: { Version: string }; Features: object };
    assert.deepEqual([info.Name, info.Version.Version], [CAISSON_RUNTIME, VERSION], stdout);
    assert.deepEqual(info.Features, runtimeFeatures);
  },
);
