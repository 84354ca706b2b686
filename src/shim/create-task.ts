/** A Create of the Task API in our own terms. */
import type { RootfsMount } from "../resources/share/shared-tree.ts";
import type { StdioSpec } from "../runtime/stdio/open.ts";

export interface CreateTask {
  readonly id: string;
  readonly bundle: string;
  readonly rootfs: readonly RootfsMount[];
  readonly stdio: StdioSpec;
  /** From containerd's runtime options; empty for the default search. */
  readonly configPath: string;
}
