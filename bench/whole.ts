/** The suites whose results the budgets and docs/performance.md are made from. */
import type { Suite } from "./suite.ts";
import { bootSuite } from "./suites/boot.ts";
import { densitySuite } from "./suites/density.ts";
import { execSuite } from "./suites/exec.ts";
import { fsSuite } from "./suites/fs.ts";
import { memorySuite } from "./suites/memory.ts";
import { netSuite } from "./suites/net.ts";
import { stdioSuite } from "./suites/stdio.ts";

export const whole: readonly Suite[] = [
  bootSuite,
  execSuite,
  stdioSuite,
  memorySuite,
  fsSuite,
  densitySuite,
  netSuite,
];
