/** Pods through the CRI of containerd 1.7, with the configuration that ships for it. */
import { coreSuite } from "../../harness/cri-core.ts";

coreSuite("1.7");
