/** The inputs that the repository keeps for each target, and those that a run adds. */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { repositoryRoot } from "../harness/paths.ts";

const CORPUS = join(repositoryRoot, "test/fuzz/corpus");

/** What once was handled wrongly has this prefix. */
export const CRASH_PREFIX = "crash-";
/** Real messages that say no. All others, without a prefix, must be taken. */
export const REFUSAL_PREFIX = "refusal-";

export interface Seed {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** The inputs kept for `target`, by name. @throws when it has none. */
export function readCorpus(target: string): Seed[] {
  const directory = join(CORPUS, target);
  const seeds = readdirSync(directory)
    .sort()
    .map((name) => ({ name, bytes: new Uint8Array(readFileSync(join(directory, name))) }));
  if (seeds.length === 0) throw new Error(`${directory} is empty`);
  return seeds;
}

/** Keeps an input that was handled wrongly. @returns its path, relative to the repository. */
export function saveCrash(target: string, input: Uint8Array): string {
  const name = `${CRASH_PREFIX}${createHash("sha256").update(input).digest("hex").slice(0, 12)}`;
  return writeSeed(target, name, input);
}

/** @returns its path, relative to the repository. */
export function writeSeed(target: string, name: string, bytes: Uint8Array): string {
  const file = join(CORPUS, target, name);
  mkdirSync(join(CORPUS, target), { recursive: true });
  writeFileSync(file, bytes);
  return relative(repositoryRoot, file);
}
