/** A process of a container with its stdio. */
import type { ProcessStdio } from "../stdio/process-stdio.ts";
import { ProcessLife } from "./process-life.ts";

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

export class ManagedProcess extends ProcessLife {
  readonly stdio: ProcessStdio;
  /** Asked for, perhaps before there is a terminal. */
  size: TerminalSize | undefined;

  constructor(containerId: string, execId: string, stdio: ProcessStdio) {
    super(containerId, execId);
    this.stdio = stdio;
  }
}
