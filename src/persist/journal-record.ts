/** What a journal may hold, and the check of what was read back. */

/** What may exist because of a sandbox. Every kind has an idempotent undo in recover.ts. */
export type JournalRecord =
  /**
   * A process that is about to be started. It is found again, should we die before its pid is known, by its program
   * and by `marker`, the sandbox's directory, in its command line.
   */
  | { readonly kind: "spawn"; readonly name: string; readonly file: string; readonly marker: string }
  | { readonly kind: "process"; readonly name: string; readonly pid: number; readonly startTime: string }
  | { readonly kind: "mount"; readonly path: string }
  | { readonly kind: "net"; readonly plan: unknown }
  | { readonly kind: "cgroup"; readonly path: string }
  | { readonly kind: "facts"; readonly facts: Readonly<Record<string, string | number | boolean>> };

/** The record that `value` is; undefined for anything that none of them is, also one with a path that leads nowhere safe. */
export function parseRecord(value: unknown): JournalRecord | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const it = value as Readonly<Record<string, unknown>>;
  switch (it.kind) {
    case "spawn":
      return isText(it.name) && isPath(it.file) && isPath(it.marker) ? (it as JournalRecord) : undefined;
    case "process":
      return isText(it.name) && isPid(it.pid) && /^\d+$/.test(String(it.startTime)) && isText(it.startTime)
        ? (it as JournalRecord)
        : undefined;
    case "mount":
    case "cgroup":
      return isPath(it.path) ? (it as JournalRecord) : undefined;
    case "net":
      return it.plan === undefined ? undefined : (it as JournalRecord);
    case "facts":
      return isFacts(it.facts) ? (it as JournalRecord) : undefined;
    default:
      return undefined;
  }
}

const isText = (value: unknown): value is string => typeof value === "string" && value !== "";
/** Pid 1 is nobody's to kill. */
const isPid = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) > 1;

/** Absolute, without "..", and at least two directories deep: nothing of ours is at or directly below the root. */
function isPath(value: unknown): value is string {
  if (!isText(value) || !value.startsWith("/") || value.includes("\0")) return false;
  const parts = value.split("/").filter((part) => part !== "");
  return parts.length > 1 && !parts.includes("..") && !parts.includes(".");
}

function isFacts(value: unknown): value is Readonly<Record<string, string | number | boolean>> {
  return (
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((fact) => ["string", "number", "boolean"].includes(typeof fact))
  );
}
