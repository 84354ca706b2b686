/** Those tests of test/e2e that show most, in the lab at every change. test/lab-e2e has all. */
import { testsInLab } from "../harness/lab-suites.ts";

testsInLab({
  "test/e2e/ctr/run.test.ts": ["credentials, limits and mounts are those that runc gives"],
  "test/e2e/task-api/cgroups.test.ts": [
    "shim, QEMU, virtiofsd and vsock backend are in the sandbox's cgroup, and nobody else",
    "a cpu quota holds on the host too, from when the guest is ready on, with the overhead",
  ],
  "test/e2e/cri/pod.test.ts": [
    "a pod of two containers runs, is asked, logged, stopped and removed",
    "nothing of the pods is left",
  ],
});
