/**
 * A scope of systemd for a sandbox, where systemd runs and the client names one: systemd then knows whose cgroup it is,
 * and leaves what is in it to us (Delegate=, systemd.resource-control(5)). It ends with the last process in it.
 *
 * systemd-run(1) makes the scope around a process of its own, which goes once we are inside; that needs no bus client.
 */
import { spawn } from "node:child_process";
import fs from "node:fs";
import { SandboxError } from "../../base/errors.ts";
import { timeoutMs } from "../../base/timeouts.ts";

/** Present where systemd is the init system (sd_booted(3)). */
const BOOTED = "/run/systemd/system";
const PROGRAM = "/usr/bin/systemd-run";

export function systemdRuns(): boolean {
  return fs.existsSync(BOOTED);
}

export function scopeArguments({ slice, unit }: { readonly slice: string; readonly unit: string }): string[] {
  const options = ["--scope", "--quiet", "--collect", `--slice=${slice}`, `--unit=${unit}`];
  const properties = ["--property=Delegate=yes", "--property=DefaultDependencies=no"];
  return [...options, ...properties, "--", "/bin/sh", "-c", "echo; read -r _"];
}

/**
 * Makes the scope and runs `join` while it is held open. @throws ERR_HOST with systemd's words, and what `join` throws.
 */
export async function inNewScope<T>(
  scope: { readonly slice: string; readonly unit: string },
  join: () => Promise<T>,
): Promise<T> {
  const holder = spawn(PROGRAM, scopeArguments(scope), {
    stdio: ["pipe", "pipe", "pipe"],
    timeout: timeoutMs("daemonReady"),
    killSignal: "SIGKILL",
  });
  let words = "";
  holder.stderr.on("data", (chunk: Buffer) => {
    words += chunk.toString();
  });
  try {
    await new Promise<void>((resolve, reject) => {
      const fail = (why: string) =>
        reject(new SandboxError("ERR_HOST", `systemd made no scope ${scope.unit}: ${words.trim() || why}`));
      holder.once("error", (error) => fail(error.message));
      holder.once("close", (code) => fail(`exit ${code}`));
      holder.stdout.once("data", () => resolve());
    });
    return await join();
  } finally {
    holder.stdin.destroy();
  }
}
