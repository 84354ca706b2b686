/** The kernel that guests boot. */
import { realpathSync } from "node:fs";
import { basename, dirname } from "node:path";
import { built } from "../test/harness/paths.ts";

/** Its release, after which osbuilder names the directory of an image. */
export const guestKernelRelease = (): string => basename(dirname(realpathSync(built.kernel)));
