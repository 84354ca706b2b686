/**
 * The manifest of an image, image.json. It is a function of the inputs: no time, no host name, no path of the host,
 * so equal inputs give equal bytes. A copy without `files` lies in the image as /etc/caisson/image.json.
 */
import * as v from "valibot";
import { SandboxError } from "../src/base/errors.ts";
import { initrdCompressions } from "./compression.ts";

/** Version of this format and of the image layout; an image of another version is built anew. */
export const IMAGE_FORMAT = 1;

const sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));
const bytes = v.pipe(v.number(), v.integer(), v.minValue(0));
const fileSchema = v.object({ sha256, bytes });

const contentSchema = v.object({
  format: v.literal(IMAGE_FORMAT),
  builder: v.string(),
  architecture: v.literal("x86_64"),
  kernel: v.object({ release: v.string(), sha256, bytes }),
  agent: v.object({ version: v.nullable(v.string()), sha256, bytes }),
  /** In the order of /etc/caisson/modules. */
  modules: v.array(
    v.object({
      name: v.string(),
      path: v.string(),
      when: v.string(),
      why: v.string(),
      sha256,
      bytes,
    }),
  ),
  builtin: v.array(v.string()),
  missing: v.array(v.string()),
  extraFiles: v.array(v.object({ path: v.string(), mode: v.string(), sha256, bytes })),
  compression: v.picklist(initrdCompressions),
  sourceDateEpoch: bytes,
});
const manifestSchema = v.object({
  ...contentSchema.entries,
  files: v.object({
    "caisson-initrd.img": fileSchema,
    vmlinux: v.optional(fileSchema),
    vmlinuz: v.optional(fileSchema),
  }),
});

/** What the image was made from and of; lies in the image. */
export type ImageContent = v.InferOutput<typeof contentSchema>;
/** The content and the hashes of the image's files; lies beside them. */
export type ImageManifest = v.InferOutput<typeof manifestSchema>;
export type ImageFileName = keyof ImageManifest["files"];
export const imageFileNames: readonly ImageFileName[] = ["caisson-initrd.img", "vmlinux", "vmlinuz"];

/** The bytes of a manifest or its content. */
export function formatManifest(manifest: ImageContent | ImageManifest): string {
  return `${JSON.stringify(manifest, undefined, 2)}\n`;
}

/**
 * Reads a manifest.
 * @param path names it in errors.
 * @throws SandboxError ERR_INVALID_ARGUMENT when it is damaged or of another format version.
 */
export function parseManifest(text: string, path: string): ImageManifest {
  try {
    return v.parse(manifestSchema, JSON.parse(text));
  } catch (cause) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `${path} is not a manifest of an image that this osbuilder can read; run osbuilder generate`,
      { cause },
    );
  }
}

/** Whether two images have the same content, however their manifests are laid out. */
export function sameContent(manifest: ImageManifest, content: ImageContent): boolean {
  const { files: _, ...own } = manifest;
  return formatManifest(own) === formatManifest(content);
}
