/**
 * The sandboxes of this host as they come and go. The kernel tells (inotify) of run directories and of journals that
 * grow; a journal is read again only then.
 */
import fs from "node:fs";
import { basename, join } from "node:path";
import { errnoOf } from "../../base/errors.ts";
import { type JournalRecord, readJournal } from "../../persist/journal.ts";
import { runRoot, sandboxDirs, sandboxPaths } from "../../persist/run-dir.ts";
import { assertReadable } from "../sandbox-record.ts";

export interface FoundSandbox {
  readonly dir: string;
  /** With which sandboxRecord() tells what runs of it. */
  readonly journal: readonly JournalRecord[];
}

interface Entry {
  /** undefined: to be read again. */
  journal: readonly JournalRecord[] | undefined;
  /** Absent where the kernel had no watch left: the journal is read every time then. */
  readonly watcher: fs.FSWatcher | undefined;
}

export class SandboxWatch implements Disposable {
  readonly #root = runRoot();
  readonly #entries = new Map<string, Entry>();
  readonly #watcher: fs.FSWatcher | undefined;
  #journalsRead = 0;

  /** @throws SandboxError ERR_PERMISSION when the run directories cannot be read. */
  constructor() {
    assertReadable();
    // As the shim makes it: there has to be something to watch before the first sandbox.
    fs.mkdirSync(this.#root, { recursive: true, mode: 0o700 });
    this.#watcher = watch(this.#root, (name) => {
      if (name === undefined) this.#lookAtAll();
      else if (!name.startsWith(".")) this.#lookAt(join(this.#root, name));
    });
    this.#lookAtAll();
  }

  /** How many journals were read so far. */
  get journalsRead(): number {
    return this.#journalsRead;
  }

  /** The sandboxes there are now. */
  sandboxes(): FoundSandbox[] {
    if (this.#watcher === undefined) this.#lookAtAll();
    return [...this.#entries].flatMap(([dir, entry]) => {
      const journal = entry.journal ?? readJournal(sandboxPaths(dir).journal);
      if (journal !== entry.journal) this.#journalsRead += 1;
      if (entry.watcher !== undefined) entry.journal = journal;
      return journal.length === 0 ? [] : [{ dir, journal }];
    });
  }

  [Symbol.dispose](): void {
    this.#watcher?.close();
    for (const { watcher } of this.#entries.values()) watcher?.close();
    this.#entries.clear();
  }

  #lookAtAll(): void {
    const present = new Set(sandboxDirs());
    for (const dir of [...present, ...this.#entries.keys()]) this.#lookAt(dir);
  }

  /** A directory appears with its journal in it (makeSandboxDir) and takes it away with itself. */
  #lookAt(dir: string): void {
    const { journal } = sandboxPaths(dir);
    const known = this.#entries.get(dir);
    if (!fs.existsSync(journal)) {
      known?.watcher?.close();
      this.#entries.delete(dir);
      return;
    }
    // One of the same name may have taken its place.
    known?.watcher?.close();
    const entry: Entry = {
      journal: undefined,
      watcher: watch(journal, () => {
        entry.journal = undefined;
      }),
    };
    this.#entries.set(dir, entry);
  }
}

/** Undefined when the kernel cannot watch `path` (fs.inotify.max_user_watches), or it has gone. */
function watch(path: string, changed: (name: string | undefined) => void): fs.FSWatcher | undefined {
  try {
    const watcher = fs.watch(path, (_, name) => changed(name ?? undefined));
    watcher.on("error", () => changed(basename(path)));
    return watcher;
  } catch (error) {
    if (["ENOSPC", "EMFILE", "ENOENT"].includes(errnoOf(error) ?? "")) return undefined;
    throw error;
  }
}
