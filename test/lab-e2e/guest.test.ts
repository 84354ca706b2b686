/** Every test of test/e2e/guest that can run in the lab. */
import { directoryInLab } from "../harness/lab-suites.ts";

directoryInLab("guest", {
  "memory.test.ts": "has a budget that the guest of Debian 13 exceeds (docs/SPECIFICATION.md)",
  "host-cgroup2.test.ts": "makes a guest stand for a host, which the lab is",
});
