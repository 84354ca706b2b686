/** The shim's server process: serves the sandbox's ttrpc socket (descriptor 3) until containerd shuts it down. */

import { startupSnapshot } from "node:v8";
import { parseShimArguments } from "../shim/arguments.ts";
import { preload } from "../shim/preload.ts";
import { serveShim } from "../shim/server.ts";

export { rehearse } from "../shim/rehearse.ts";

function serve(): void {
  process.title = "caisson-shim";
  serveShim(parseShimArguments(process.argv.slice(2)), { listenFd: 3, environment: process.env });
}

// A process that starts from the snapshot serves; nothing that is read before, like the time or the environment, is its own.
if (startupSnapshot.isBuildingSnapshot()) {
  startupSnapshot.setDeserializeMainFunction(serve);
  void preload();
} else serve();
