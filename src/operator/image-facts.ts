/** The guest image that new sandboxes boot, by the manifest that osbuilder laid beside it (docs/osbuilder.md). */
import fs from "node:fs";
import { dirname, join } from "node:path";
import * as v from "valibot";
import type { Config } from "../config/index.ts";

/** The parts of image.json that are shown; osbuilder checks all of it. */
const manifestSchema = v.object({
  builder: v.string(),
  compression: v.string(),
  kernel: v.object({ release: v.string(), sha256: v.string() }),
  agent: v.object({ version: v.nullable(v.string()), sha256: v.string() }),
  modules: v.array(v.object({ name: v.string(), when: v.string() })),
  files: v.record(v.string(), v.object({ sha256: v.string(), bytes: v.number() })),
});
export type ImageSummary = v.InferOutput<typeof manifestSchema>;

export interface ImageFacts {
  readonly initrd: string;
  /** What the links lead to; undefined when it is not there. */
  readonly realInitrd: string | undefined;
  readonly kernel: string;
  readonly realKernel: string | undefined;
  /** Undefined for an image that osbuilder did not make. */
  readonly manifest: ImageSummary | undefined;
}

export function imageFacts({ hypervisor }: Pick<Config, "hypervisor">): ImageFacts {
  const realInitrd = realPath(hypervisor.initrd);
  return {
    initrd: hypervisor.initrd,
    realInitrd,
    kernel: hypervisor.kernel,
    realKernel: realPath(hypervisor.kernel),
    manifest: realInitrd === undefined ? undefined : readManifest(join(dirname(realInitrd), "image.json")),
  };
}

function readManifest(path: string): ImageSummary | undefined {
  try {
    return v.parse(manifestSchema, JSON.parse(fs.readFileSync(path, "utf8")));
  } catch {
    return undefined;
  }
}

export function realPath(path: string): string | undefined {
  try {
    return fs.realpathSync(path);
  } catch {
    return undefined;
  }
}
