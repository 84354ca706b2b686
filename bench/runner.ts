/** What runs processes with named pipes for their standard streams. */
import { processSpec, type Subject } from "./subjects.ts";

/** Paths of named pipes. */
export interface StdioPaths {
  readonly stdin?: string;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Process {
  start(): Promise<void>;
  kill(): Promise<void>;
  exited(): Promise<void>;
  /** Preconditions: it has exited. */
  remove(): Promise<void>;
}

export interface Runner {
  /** Behind what was measured, in a table. */
  readonly name: string;
  /** Makes a process for `args` in a container that runs. */
  create(execId: string, args: readonly string[], paths: StdioPaths): Promise<Process>;
}

/** An exec in the container of a shim, by the Task API. */
export function taskRunner({ name, id, task }: Subject): Runner {
  return {
    name,
    async create(execId, args, paths) {
      await task.exec({ id, execId, spec: processSpec(args), ...paths });
      return {
        start: async () => void (await task.start({ id, execId })),
        kill: async () => void (await task.kill({ id, execId, signal: 9 })),
        exited: async () => void (await task.wait({ id, execId })),
        remove: async () => void (await task.delete({ id, execId })),
      };
    },
  };
}
