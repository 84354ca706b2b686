/** The core suite against containerd 1.6 or whatever the system has. */
import { coreSuite } from "./core-suite.ts";

coreSuite("system");
