/** `osbuilder prune`: which images may go. */
import { readdir, realpath } from "node:fs/promises";
import { join, sep } from "node:path";
import { errnoOf } from "../src/base/errors.ts";
import { readJournal } from "../src/persist/journal.ts";
import type { ImageStore, StoredImage } from "./image-store.ts";

export interface PruneDecision {
  readonly image: StoredImage;
  /** Why it stays; undefined when it goes. */
  readonly keep: string | undefined;
}

/**
 * What is to become of each image: the linked one, those in use and the newest `keep` stay.
 * @param usedPaths files that running sandboxes boot from (usedImagePaths).
 */
export function decidePrune(
  images: readonly StoredImage[],
  usedPaths: ReadonlyMap<string, string>,
  keep: number,
): PruneDecision[] {
  const newestFirst = [...images].sort((a, b) => b.builtAt - a.builtAt);
  return newestFirst.map((image, index) => {
    const user = [...usedPaths].find(([path]) => path.startsWith(image.directory + sep))?.[1];
    if (image.current) return { image, keep: "current" };
    if (user !== undefined) return { image, keep: `used by sandbox ${user}` };
    return { image, keep: index < keep ? `one of the newest ${keep}` : undefined };
  });
}

/**
 * Files that the sandboxes under `runRoot` were started from, by the journal's facts, each with the sandbox's
 * directory name. Links are followed, as a journal may name /var/cache/caisson/caisson-initrd.img.
 */
export async function usedImagePaths(runRoot: string): Promise<ReadonlyMap<string, string>> {
  const used = new Map<string, string>();
  const entries = await readdir(runRoot, { withFileTypes: true }).catch((error: unknown) => {
    if (errnoOf(error) === "ENOENT") return [];
    throw error;
  });
  for (const { name } of entries.filter((entry) => entry.isDirectory())) {
    for (const record of readJournal(join(runRoot, name, "journal"))) {
      if (record.kind !== "facts") continue;
      for (const value of Object.values(record.facts)) {
        if (typeof value !== "string" || !value.startsWith("/")) continue;
        used.set(await realpath(value).catch(() => value), name);
      }
    }
  }
  return used;
}

/** Removes what `decisions` let go. Preconditions: the store's lock is held. */
export async function applyPrune(store: ImageStore, decisions: readonly PruneDecision[]): Promise<void> {
  for (const { image, keep } of decisions) if (keep === undefined) await store.remove(image.release);
}
