/** Every test of test/e2e/net that can run in the lab. */
import { directoryInLab } from "../harness/lab-suites.ts";

directoryInLab("net");
