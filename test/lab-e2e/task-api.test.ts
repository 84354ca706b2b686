/** Every test of test/e2e/task-api that can run in the lab. */
import { directoryInLab } from "../harness/lab-suites.ts";

const OTHER_CONTAINERD = "is of a containerd that the host does not have";
directoryInLab("task-api", {
  "containerd-1.6.test.ts": OTHER_CONTAINERD,
  "containerd-1.7.test.ts": OTHER_CONTAINERD,
  "containerd-2.1.test.ts": OTHER_CONTAINERD,
  "sandbox-api.test.ts": OTHER_CONTAINERD,
});
