/** What saving a guest and going on from it have in common: QEMU's migration, to and from files. */
import { withDeadline } from "../../base/deadline.ts";
import { SandboxError } from "../../base/errors.ts";
import { timeoutMs } from "../../base/timeouts.ts";
import type { QmpClient } from "../../qmp/index.ts";

/** How one ends (MigrationStatus, qapi/migration.json). */
const ENDS: readonly string[] = ["completed", "failed"];
/** Events tell the end; memory that is a shared file is not in the state (qapi/migration.json). */
const CAPABILITIES = ["events", "x-ignore-shared"] as const;

/**
 * Whether QEMU takes the path of a file with a state: 8.2 and later (migration/file.c). A descriptor of a file is deprecated
 * since 9.1 (migration/fd.c).
 */
export function takesStateFiles({ version: { major, minor } }: QmpClient): boolean {
  return major > 8 || (major === 8 && minor >= 2);
}

/**
 * Has `begin` start a migration and waits for its end.
 * @param what names it in errors: "saving the guest"
 * @throws SandboxError ERR_HOST, ERR_UNAVAILABLE (QEMU ends when it cannot read a state), ERR_DEADLINE, ERR_CANCELED
 */
export async function migrate(
  qmp: QmpClient,
  what: string,
  begin: () => Promise<unknown>,
  signal: AbortSignal,
): Promise<void> {
  const capabilities = CAPABILITIES.map((capability) => ({ capability, state: true }));
  await qmp.execute("migrate-set-capabilities", { capabilities }, { signal });
  const waiting = new AbortController();
  const ended = qmp.waitFor("MIGRATION", ({ status }) => ENDS.includes(status), waiting.signal);
  try {
    const end = withDeadline(ended, timeoutMs("qmpCommand"), what, signal);
    const [{ status }] = await Promise.all([end, begin()]);
    if (status !== "completed") throw new SandboxError("ERR_HOST", `${what} failed`);
  } finally {
    waiting.abort();
  }
}
