/** The shim's server process: serves the sandbox's ttrpc socket (descriptor 3) until containerd shuts it down. */

import { parseShimArguments } from "../shim/arguments.ts";
import { serveShim } from "../shim/server.ts";

export { rehearse } from "../shim/rehearse.ts";

process.title = "caisson-shim";
serveShim(parseShimArguments(process.argv.slice(2)), { listenFd: 3, environment: process.env });
