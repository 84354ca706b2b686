/** The core suite against containerd 2.1. */
import { coreSuite } from "./core-suite.ts";

coreSuite("2.1");
