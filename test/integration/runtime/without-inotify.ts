/** Running a program of this directory where its user may have no inotify instance, as on a host that has used them up. */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";

/** @returns what it printed. @throws when it fails. */
export function runWithoutInotify(program: string, argument: string): string {
  const path = fileURLToPath(new URL(program, import.meta.url));
  const none = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"';
  const node = [process.execPath, "--import", "tsx", path, argument];
  return execFileSync("unshare", ["-Ur", "sh", "-c", none, "sh", ...node], { encoding: "utf8" });
}
