/** Every test of test/e2e/ctr that can run in the lab. */
import { directoryInLab } from "../harness/lab-suites.ts";

directoryInLab("ctr");
