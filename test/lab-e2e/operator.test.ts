/** Every test of test/e2e/operator that can run in the lab. */
import { directoryInLab } from "../harness/lab-suites.ts";

directoryInLab("operator", {
  "monitor.test.ts": "wants a browser, which the host does not have",
  "tracing.test.ts": "is of a containerd that the host does not have",
});
