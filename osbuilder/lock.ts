/** One osbuilder at a time per image directory: flock(2), held by the flock program of util-linux. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { errnoOf, SandboxError } from "../src/base/errors.ts";
import type { AsyncReleasable } from "../src/base/undo.ts";

/** How long to wait for another run; a run takes seconds. */
const WAIT_S = 300;
/** After so long without the lock, the progress output says that somebody else has it. */
const NOTICE_MS = 300;
/** Exit status that we have flock(1) give when it waited in vain. */
const CONFLICT_STATUS = 75;

/**
 * Waits for the exclusive lock on the file `path`, which is created and stays. The kernel drops the lock when this
 * process ends, however it ends: the lock's holder is a child that ends with its stdin.
 * @param onWait called once when another run holds the lock.
 * @returns the lock, to be disposed.
 * @throws SandboxError ERR_STATE when another run keeps it for five minutes, ERR_HOST without flock(1), ERR_CANCELED.
 */
export async function takeLock(
  path: string,
  onWait: () => void,
  signal?: AbortSignal,
): Promise<AsyncReleasable> {
  const args = ["--exclusive", `--timeout=${WAIT_S}`, `--conflict-exit-code=${CONFLICT_STATUS}`, path];
  // A process group of its own: Ctrl-C must not drop the lock before our cleanup has run.
  const child = spawn("flock", [...args, "sh", "-c", "echo locked; exec cat >/dev/null"], {
    stdio: ["pipe", "pipe", "pipe"],
    detached: true,
  });
  const ended = once(child, "exit").then(([status]) => status as number | null);
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  child.stdin.on("error", () => undefined); // the child ended first; `ended` tells
  const locked = once(child.stdout, "data").then(() => "locked" as const);
  const canceled = new Promise<"canceled">((resolve) => {
    signal?.addEventListener("abort", () => resolve("canceled"), { once: true });
    if (signal?.aborted === true) resolve("canceled");
  });
  const notice = setTimeout(onWait, NOTICE_MS);
  try {
    const outcome = await Promise.race([locked, ended, canceled]);
    if (outcome === "locked") {
      return {
        async [Symbol.asyncDispose]() {
          child.stdin.end();
          await ended;
        },
      };
    }
    if (outcome === "canceled")
      throw new SandboxError("ERR_CANCELED", `waiting for the lock ${path} was canceled`);
    if (outcome === CONFLICT_STATUS) {
      throw new SandboxError(
        "ERR_STATE",
        `another osbuilder has held the lock ${path} for ${WAIT_S} s; see who: fuser ${path}`,
      );
    }
    throw new SandboxError("ERR_HOST", `cannot lock ${path}: ${stderr.trim()}`);
  } catch (error) {
    stop(child.pid);
    if (errnoOf(error) !== "ENOENT") throw error;
    throw new SandboxError("ERR_HOST", "the program flock is not installed: apt install util-linux", {
      cause: error,
    });
  } finally {
    clearTimeout(notice);
  }
}

/** Ends the child's whole group: flock itself and what it may have started meanwhile. */
function stop(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGTERM");
  } catch {
    // It has ended already.
  }
}
