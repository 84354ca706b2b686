/** `shim cp`: files between this host and a guest or a container, as archives over the console. */
import { randomBytes } from "node:crypto";
import fs from "node:fs";
import { basename, dirname, join, posix, resolve } from "node:path";
import { errnoOf, SandboxError } from "../../base/errors.ts";
import { type Arguments, formatBytes, UsageError } from "../../cli/index.ts";
import { type ConsoleAccess, openAccess, openTools } from "../console-access.ts";
import { type ConsoleSession, openConsole, TOOLS_BIN } from "../console-client.ts";
import { chooseContainer } from "../find-target.ts";
import type { OperatorHost } from "../host.ts";
import { packTree, type UnpackResult, unpackTree } from "../tar.ts";

/** Milliseconds for a guest whose archive was no good to tell why; then it is cut off. */
const LAST_WORDS_MS = 1_000;

/** A path on this host, or in the sandbox that `word` names. */
interface Place {
  readonly word: string | undefined;
  readonly path: string;
}

/** "ID:PATH"; a path with a slash before its first colon, or without one, is on this host. Pure. */
export function parsePlace(text: string): Place {
  const colon = text.indexOf(":");
  const slash = text.indexOf("/");
  if (colon <= 0 || (slash >= 0 && slash < colon && !/^[^/.]+\/[^/:]+:/.test(text)))
    return { word: undefined, path: text };
  return { word: text.slice(0, colon), path: text.slice(colon + 1) };
}

export async function runCp(args: Arguments, host: OperatorHost): Promise<number> {
  const [from, to] = args.operands.map(parsePlace);
  if (from === undefined || to === undefined || (from.word === undefined) === (to.word === undefined))
    throw new UsageError("cp takes one path of this host and one of a sandbox, as ID:PATH");
  const inGuest = from.word === undefined ? to : from;
  if (inGuest.path === "/") throw new UsageError("cp copies files and directories, but not the whole of /");
  if (!inGuest.path.startsWith("/"))
    throw new UsageError(`the path in the guest has to be absolute: ${inGuest.path}`);
  const access = await openAccess(inGuest.word ?? "", host);
  const wanted = args.value("container");
  const containerId = wanted === undefined ? "" : chooseContainer(wanted, access.view);
  const lease = await openTools(access, host, containerId === "");
  const startedAt = performance.now();
  try {
    const guest = new GuestFiles(access, containerId);
    const result =
      from.word === undefined ? await guest.put(from.path, to.path) : await guest.get(from.path, to.path);
    for (const line of result.skipped) host.stderr(`shim: left out ${line}\n`);
    const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
    const what = `${result.files} file${result.files === 1 ? "" : "s"}, ${formatBytes(result.bytes)}`;
    if (!args.flag("quiet")) host.stderr(`copied ${what} in ${seconds} s\n`);
    return 0;
  } finally {
    lease?.release();
  }
}

class GuestFiles {
  readonly #access: ConsoleAccess;
  readonly #containerId: string;

  constructor(access: ConsoleAccess, containerId: string) {
    this.#access = access;
    this.#containerId = containerId;
  }

  async put(source: string, path: string): Promise<UnpackResult> {
    if (!fs.existsSync(source)) throw new SandboxError("ERR_NOT_FOUND", `${source} does not exist`);
    const isDirectory = await this.#isDirectory(path);
    if (!isDirectory && path.endsWith("/"))
      throw new SandboxError("ERR_NOT_FOUND", `there is no directory ${path} in the guest`);
    const dir = isDirectory ? path : posix.dirname(path);
    const name = isDirectory ? basename(resolve(source)) : posix.basename(path);
    const session = await this.#open(["tar", "-x", "-f", "-", "-C", dir]);
    const [sent, finished] = await Promise.allSettled([
      sendTree(session, source, name),
      this.#finish(session, `writing ${path} in the guest`, textOf(session.stdout)),
    ]);
    // What is wrong here made the guest's tar fail, and what is wrong there only broke the stream.
    if (sent.status === "rejected") throw sent.reason;
    if (finished.status === "rejected") throw finished.reason;
    return { ...countFiles(source), skipped: [] };
  }

  async get(path: string, destination: string): Promise<UnpackResult> {
    const into = fs.statSync(destination, { throwIfNoEntry: false })?.isDirectory() === true;
    const final = resolve(into ? join(destination, posix.basename(path)) : destination);
    if (fs.statSync(final, { throwIfNoEntry: false })?.isDirectory() === true)
      throw new SandboxError(
        "ERR_ALREADY_EXISTS",
        `${final} exists already; remove it or name another place`,
      );
    if (!fs.existsSync(dirname(final)))
      throw new SandboxError("ERR_NOT_FOUND", `there is no directory ${dirname(final)}`);
    const dir = posix.dirname(path);
    const session = await this.#open(["tar", "-c", "-f", "-", "-C", dir, `./${posix.basename(path)}`]);
    await session.endInput();
    const partial = `${final}.shim-cp-${randomBytes(4).toString("hex")}`;
    try {
      const unpacked = unpackTree(session.stdout, partial);
      unpacked.catch(() => setTimeout(() => session.close(), LAST_WORDS_MS).unref());
      const [read, finished] = await Promise.allSettled([
        unpacked,
        this.#finish(session, `reading ${path} in the guest`, unpacked),
      ]);
      // The guest's own words say more than an archive that is empty or ends early.
      if (finished.status === "rejected" && isOfGuest(finished.reason)) throw finished.reason;
      if (read.status === "rejected") throw ofThisHost(read.reason, final);
      if (finished.status === "rejected") throw finished.reason;
      fs.renameSync(partial, final);
      return read.value;
    } finally {
      fs.rmSync(partial, { recursive: true, force: true });
    }
  }

  async #isDirectory(path: string): Promise<boolean> {
    const session = await this.#open(["test", "-d", path]);
    await session.endInput();
    const [, , status] = await Promise.all([textOf(session.stdout), textOf(session.stderr), session.exited]);
    return status === 0;
  }

  #open(argv: readonly string[]): Promise<ConsoleSession> {
    const { dial, client } = this.#access;
    const env = this.#containerId === "" ? [`PATH=${TOOLS_BIN}`] : [];
    return openConsole(dial, { argv, env, containerId: this.#containerId, terminal: undefined, client });
  }

  /** @throws SandboxError ERR_NOT_FOUND for what is not there, else ERR_STATE, with what tar said when it failed */
  async #finish(session: ConsoleSession, what: string, stdout: Promise<unknown>): Promise<void> {
    const [errors, status] = await Promise.all([
      textOf(session.stderr),
      session.exited,
      stdout.catch(() => undefined),
    ]);
    if (status === 0) return;
    const said = errors
      .trim()
      .replace(/^tar: /, "")
      .split("\n", 1)[0];
    const code = /No such file or directory/.test(said ?? "") ? "ERR_NOT_FOUND" : "ERR_STATE";
    throw new SandboxError(code, `${what} failed: ${said || `tar ended with status ${status}`}`);
  }
}

const isOfGuest = (error: unknown): boolean =>
  error instanceof SandboxError && ["ERR_STATE", "ERR_NOT_FOUND"].includes(error.code);

/** A disk that is full or takes no such entry, say: the error of the system call does not say what was to be done. */
function ofThisHost(error: unknown, path: string): unknown {
  return errnoOf(error) === undefined || error instanceof SandboxError
    ? error
    : new SandboxError("ERR_HOST", `cannot write ${path}`, { cause: error });
}

/** @throws why the files cannot be read; a guest that stops reading is told by its exit status. */
async function sendTree(session: ConsoleSession, source: string, name: string): Promise<void> {
  let reading = true;
  try {
    for await (const piece of packTree(source, name)) {
      await session.write(piece).catch(() => {
        reading = false;
      });
      if (!reading) return;
    }
    await session.endInput().catch(() => undefined);
  } catch (error) {
    session.close();
    throw error;
  }
}

async function textOf(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts).toString();
}

function countFiles(path: string): { files: number; bytes: number } {
  const stat = fs.statSync(path, { throwIfNoEntry: false });
  if (stat?.isDirectory() !== true) return { files: 1, bytes: stat?.size ?? 0 };
  const entries = fs.readdirSync(path, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => !entry.isDirectory());
  const sizes = files.map((entry) => fs.lstatSync(join(entry.parentPath ?? entry.path, entry.name)).size);
  return { files: files.length, bytes: sizes.reduce((total, size) => total + size, 0) };
}
