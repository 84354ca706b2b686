/** The core suite against containerd 1.7. */
import { coreSuite } from "./core-suite.ts";

coreSuite("1.7");
