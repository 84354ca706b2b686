/** The wiring probe of the suite net as one file: where the suite runs in the lab, there is no bundler. */
import { join } from "node:path";
import { build } from "esbuild";
import { repositoryRoot } from "../test/harness/paths.ts";
import { WIRING_BUNDLE } from "./suites/net.ts";

/** Writes the bundle to its place below `root`: the repository, or a tree that is to look like one. */
export async function writeWiringBundle(root: string): Promise<void> {
  await build({
    entryPoints: [join(repositoryRoot, "bench/suites/net-wiring.ts")],
    outfile: join(root, WIRING_BUNDLE),
    bundle: true,
    platform: "node",
    target: "node20",
    format: "cjs",
    minifySyntax: true,
    supported: { "dynamic-import": false },
    define: { "import.meta.url": "importMetaUrl" },
    banner: { js: 'const importMetaUrl=require("node:url").pathToFileURL(__filename).href;' },
    logLevel: "warning",
  });
}
