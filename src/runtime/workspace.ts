/**
 * A sandbox's place on the host: its run directory with the journal, its cgroup, and the shared tree. Made first,
 * removed last.
 */
import { failPoint } from "../base/failpoint.ts";
import { removeTree } from "../base/remove-tree.ts";
import { type AsyncReleasable, UndoStack } from "../base/undo.ts";
import { Journal, type JournalRecord } from "../persist/journal.ts";
import { isSameProcess, processStartTime } from "../persist/proc.ts";
import { makeSandboxDir, type SandboxPaths, sandboxPaths } from "../persist/run-dir.ts";
import { SandboxCgroup, type SandboxCgroupInit } from "../resources/cgroup/index.ts";
import { type MountSyscalls, SharedTree } from "../resources/share/shared-tree.ts";

export interface WorkspaceInit {
  /** The sandbox's run directory; must not exist. */
  readonly dir: string;
  /** Facts for `list` and for people: ids, namespace, bundle. */
  readonly facts: Readonly<Record<string, string | number | boolean>>;
  /** The cgroup that this process goes into, and all that it starts for the sandbox. */
  readonly cgroup?: SandboxCgroupInit | undefined;
}

export class Workspace {
  readonly paths: SandboxPaths;
  readonly journal: Journal;
  readonly tree: SharedTree;
  readonly cgroup: SandboxCgroup | undefined;
  readonly #undo: UndoStack;

  private constructor(parts: Pick<Workspace, "paths" | "journal" | "tree" | "cgroup">, undo: UndoStack) {
    this.paths = parts.paths;
    this.journal = parts.journal;
    this.tree = parts.tree;
    this.cgroup = parts.cgroup;
    this.#undo = undo;
  }

  /** @throws ERR_ALREADY_EXISTS when the directory exists, ERR_HOST naming the path. */
  static async create(mounts: MountSyscalls, init: WorkspaceInit): Promise<Workspace> {
    await using undo = new UndoStack();
    const { dir } = init;
    const journal = makeSandboxDir(dir, (making) => {
      const made = undo.adopt("journal", Journal.create(sandboxPaths(making).journal), (it) => it.close());
      made.add({ kind: "facts", facts: init.facts });
      recordProcess(made, "shim", process.pid);
      return made;
    });
    undo.defer(`run directory ${dir}`, () => {
      const left = journal.open.filter(stillThere);
      // The journal is all that `delete` and `gc` will have to go by.
      if (left.length > 0) throw new Error(`${dir} is kept: not undone yet: ${left.map(nameOf).join(", ")}`);
      removeTree(dir);
    });
    failPoint("workspace.made");
    const cgroup = init.cgroup && undo.use("cgroup", await SandboxCgroup.enter(init.cgroup, journal));
    const paths = sandboxPaths(dir);
    const tree = undo.use("shared tree", await SharedTree.create(paths, mounts, journal));
    failPoint("workspace.shared");
    return new Workspace({ paths, journal, tree, cgroup }, undo.move());
  }

  /**
   * Starts a process of the sandbox with the journal ahead of it. The child asks the kernel to die with us only some
   * moments after its fork: until its pid is written, `delete` finds it by `file` and our directory on its command line.
   * @param spawn starts it; `file` and a path in the sandbox's directory must be words of its command line.
   * @returns the child, owned by the caller; it has been ended again when this throws.
   */
  async spawn<T extends RecordedChild>(
    name: string,
    file: string,
    spawn: () => Promise<T>,
    spawned: () => void = () => undefined,
  ): Promise<T> {
    const intent = this.journal.add({ kind: "spawn", name, file, marker: this.paths.dir });
    const child = await spawn();
    try {
      spawned();
      recordProcess(this.journal, name, child.pid);
      this.journal.done(intent);
    } catch (error) {
      await child[Symbol.asyncDispose]();
      throw error;
    }
    return child;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#undo.disposeAsync();
  }
}

export interface RecordedChild extends AsyncReleasable {
  readonly pid: number;
}

/** Whether what a record speaks of may be there still, at the end of a living shim's teardown. */
function stillThere(record: JournalRecord): boolean {
  if (record.kind === "process") {
    return record.pid !== process.pid && isSameProcess(record.pid, record.startTime);
  }
  // Not a mount: the kernel itself says what is mounted, when the directory goes.
  return record.kind === "net" || record.kind === "cgroup";
}

function nameOf(record: JournalRecord): string {
  if (record.kind === "process") return `process ${record.pid} (${record.name})`;
  return "path" in record ? `${record.kind} ${record.path}` : record.kind;
}

/** Notes a running process of the sandbox; nothing when it has ended already. */
function recordProcess(journal: Journal, name: string, pid: number): void {
  const startTime = processStartTime(pid);
  if (startTime !== undefined) journal.add({ kind: "process", name, pid, startTime });
}
