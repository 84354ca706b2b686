/**
 * `delete`: containerd runs it after a shim has gone, cleanly or not, and CRI-O never does. It leaves nothing of the
 * container behind, and nothing of the sandbox when the container was the sandbox. It works from the journal alone,
 * may be repeated, and has 5 s (containerd's cleanup limit).
 */
import fs from "node:fs";
import path from "node:path";
import { SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { mountsBelow, removeTree } from "../base/remove-tree.ts";
import { readJournal } from "../persist/journal.ts";
import { findHolders, isRunning, isSameProcess } from "../persist/proc.ts";
import { type RecoverDeps, removeSandbox } from "../persist/recover.ts";
import { abandonedDirs, sandboxDir, sandboxPaths, shimSocketPath, shimSockets } from "../persist/run-dir.ts";
import { checkIdentifier, type ShimArguments } from "./arguments.ts";
import { bundleRole, readExit } from "./bundle.ts";

/** Exit status reported for a container that its shim's death has ended: 128 + SIGKILL. */
const KILLED = 137;

/** @returns the bytes of containerd.task.v2.DeleteResponse for stdout. */
export async function deleteShim(args: ShimArguments, cwd: string, log: Log): Promise<Uint8Array> {
  checkIdentifier("namespace", args.namespace);
  checkIdentifier("container id", args.id);
  const bundle = args.bundle === "" ? cwd : args.bundle;
  const role = roleOf(bundle, log);
  const sandboxId = role.role === "container" ? role.sandboxId : args.id;
  const identity = { namespace: args.namespace, sandboxId, containerdAddress: args.address };
  const dir = sandboxDir(identity);
  const deps = recoverDeps(log);
  if (role.role === "container") {
    if (!shimAlive(dir)) await removeContainer(path.join(sandboxPaths(dir).shared, args.id), deps);
  } else {
    const socket = socketOf(bundle, shimSocketPath(identity));
    if (fs.existsSync(socket)) await endServer(socket, deps);
    await removeSandbox(dir, deps);
    fs.rmSync(socket, { force: true });
    await sweepSockets();
    for (const unfinished of abandonedDirs()) removeTree(unfinished);
  }
  const { status, exitedAt } = readExit(bundle) ?? { status: KILLED, exitedAt: new Date() };
  return encodeDeleteResponse(status, exitedAt);
}

/** The socket that `start` noted in the bundle, wherever it was put; the name is always the same. */
function socketOf(bundle: string, usual: string): string {
  try {
    const noted = fs.readFileSync(path.join(bundle, "address"), "utf8").replace(/^unix:\/\//, "");
    return path.isAbsolute(noted) && path.basename(noted) === path.basename(usual) ? noted : usual;
  } catch {
    return usual;
  }
}

/**
 * Removes the sockets of other shims that died before containerd knew them: for those nobody calls `delete`. What is in
 * /proc/net/unix is bound; what is not may be so in another network namespace, which only a connect can tell.
 */
async function sweepSockets(): Promise<void> {
  const bound = fs.readFileSync("/proc/net/unix", "utf8");
  const { isDeaf } = await import("./dead-socket.ts");
  for (const socket of shimSockets().filter((path) => !bound.includes(path))) {
    if (await isDeaf(socket)) fs.rmSync(socket, { force: true });
  }
}

/** Milliseconds for a killed server to be gone. */
const SERVER_END_MS = 1_000;

/**
 * Kills the server process of this sandbox, also where it has no journal yet: `start` has begun it, and containerd gave
 * up before its first Create. One that ended by itself has removed its socket: then nobody need be looked for.
 */
async function endServer(socket: string, deps: RecoverDeps): Promise<void> {
  for (const { pid, startTime } of findHolders(socket)) {
    deps.log.info({ pid }, "killing a shim that containerd has given up");
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      continue; // gone meanwhile
    }
    await deps.waitForExit(pid, startTime, SERVER_END_MS);
  }
}

async function removeContainer(dir: string, deps: RecoverDeps): Promise<void> {
  if (!fs.existsSync(dir)) return;
  for (const point of mountsBelow(dir).reverse()) await deps.unmount(point);
  removeTree(dir);
}

function roleOf(bundle: string, log: Log) {
  try {
    return bundleRole(bundle);
  } catch (error) {
    log.warn(
      { path: bundle, err: String(error) },
      "the bundle is unreadable; treating the container as a sandbox",
    );
    return { role: "single" } as const;
  }
}

/** Whether the shim that owns the sandbox directory `dir` still runs. */
export function shimAlive(dir: string): boolean {
  return readJournal(sandboxPaths(dir).journal).some(
    (record) =>
      record.kind === "process" && record.name === "shim" && isRunning(record.pid, record.startTime),
  );
}

/**
 * Removes what a dead shim of the same identity left at `dir`, so that its id can be used again; does nothing where
 * nothing is or where that shim lives.
 * @throws ERR_ALREADY_EXISTS where a process of it does not end.
 */
export async function removeLeftover(dir: string, log: Log): Promise<void> {
  if (!fs.existsSync(dir) || shimAlive(dir)) return;
  log.warn({ path: dir }, "removing what an earlier sandbox of this id left behind");
  const failures = await removeSandbox(dir, recoverDeps(log));
  if (fs.existsSync(dir)) {
    const text = `an earlier sandbox of this id has not gone (\`shim gc\` removes it when it can): ${failures.join("; ")}`;
    throw new SandboxError("ERR_ALREADY_EXISTS", text);
  }
}

/** The native and network parts are loaded only when there is something to undo: a clean delete is then cheap. */
export function recoverDeps(log: Log): RecoverDeps {
  return {
    log,
    unmount: async (target) => (await import("../native/index.ts")).detachMount(target),
    undoNet: async (plan) => (await import("../resources/net/index.ts")).undoPodNetwork(plan),
    waitForExit: async (pid, startTime, limitMs) =>
      (await import("../native/index.ts")).waitForProcessExit(pid, limitMs, () =>
        isSameProcess(pid, startTime),
      ),
  };
}

/**
 * DeleteResponse { pid = 1, exit_status = 2, exited_at = 3 (Timestamp { seconds = 1 }) }, written by hand: the protobuf
 * runtime would double the time that this short program needs.
 */
export function encodeDeleteResponse(status: number, exitedAt: Date): Uint8Array {
  const timestamp = [0x08, ...varint(Math.floor(exitedAt.getTime() / 1000))];
  return Uint8Array.from([0x10, ...varint(status), 0x1a, timestamp.length, ...timestamp]);
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80);
  bytes.push(rest);
  return bytes;
}
