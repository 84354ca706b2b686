/**
 * Pod annotations that change the configuration: `io.caisson.config.<section>.<key>`, and Kata's prefix as an alias.
 *
 * A pod's author is not the node's administrator. So only keys that are harmless in anyone's hands can be set at all
 * (no paths, no raw arguments: the `annotation` mark in keys.ts), and of those only what enable_annotations names.
 */
import { SandboxError } from "../base/errors.ts";
import { type SectionName, sectionNames } from "./keys.ts";
import { keyOf, keyPath, type Layers } from "./layers.ts";

export const ANNOTATION_PREFIX = "io.caisson.config.";
export const KATA_ANNOTATION_PREFIX = "io.katacontainers.config.";

/**
 * Lays the annotations over `layers`. Ours win over Kata's for the same key.
 * @throws SandboxError ERR_CONFIG naming the annotation: unknown key, not allowed, wrong value.
 */
export function applyAnnotations(layers: Layers, annotations: Readonly<Record<string, string>>): void {
  const ours = Object.entries(annotations).filter(([name]) => name.startsWith(ANNOTATION_PREFIX));
  const katas = Object.entries(annotations).filter(([name]) => name.startsWith(KATA_ANNOTATION_PREFIX));
  if (ours.length === 0 && katas.length === 0) return;
  const allows = allowList(layers);
  for (const [name, text] of katas) apply(layers, allows, name, KATA_ANNOTATION_PREFIX, text);
  for (const [name, text] of ours) apply(layers, allows, name, ANNOTATION_PREFIX, text);
}

type Allows = (section: SectionName, name: string) => boolean;

/** @throws SandboxError ERR_CONFIG for an entry that is not a regular expression. */
function allowList(layers: Layers): Allows {
  const entries = layers.get("hypervisor", "enable_annotations") as readonly string[];
  const patterns = entries.map((entry) => {
    try {
      return new RegExp(`^(?:${entry})$`);
    } catch (cause) {
      const path = keyPath("hypervisor", "enable_annotations");
      throw new SandboxError("ERR_CONFIG", `${path}: ${JSON.stringify(entry)} is not a regular expression`, {
        cause,
      });
    }
  });
  return (section, name) =>
    patterns.some((pattern) => pattern.test(name) || pattern.test(`${section}.${name}`));
}

function apply(layers: Layers, allows: Allows, annotation: string, prefix: string, text: string): void {
  const [section, name, ...more] = annotation.slice(prefix.length).split(".");
  const known = sectionNames.find((candidate) => candidate === section);
  const key = known === undefined || name === undefined || more.length > 0 ? undefined : keyOf(known, name);
  if (known === undefined || name === undefined || key === undefined) {
    throw refused(annotation, "there is no such key");
  }
  if (!key.annotation) throw refused(annotation, "this key can only be set in the configuration file");
  if (!allows(known, name)) {
    throw refused(annotation, `enable_annotations in [hypervisor.qemu] does not name ${name}`);
  }
  const value = key.fromText(text);
  if (value === undefined || !key.accept(value)) {
    throw refused(annotation, `${JSON.stringify(text.slice(0, 60))} is not ${key.allowed}`);
  }
  layers.set(known, name, value, `annotation ${annotation}`);
}

function refused(annotation: string, why: string): SandboxError {
  return new SandboxError("ERR_CONFIG", `the annotation ${annotation} is refused: ${why}`);
}
