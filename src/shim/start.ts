/**
 * `start`: answers with the address of the sandbox's ttrpc socket, as fast as it can. The socket is bound here and
 * handed to the server process as descriptor 3, so the answer need not wait for that process: what connects before it
 * listens is queued by the kernel. A container of an existing sandbox gets that sandbox's address and no new process.
 *
 * Nothing but the address goes to stdout and nothing at all to stderr on success: containerd reads both as one.
 */
import { type ChildProcess, spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import { SandboxError } from "../base/errors.ts";
import { failPoint } from "../base/failpoint.ts";
import { processStartTime } from "../persist/proc.ts";
import { shimSocketPath } from "../persist/run-dir.ts";
import { checkIdentifier, type ShimArguments } from "./arguments.ts";
import { type BootstrapParams, bootstrapParams, bootstrapResult, runtimeConfigPath } from "./bootstrap.ts";
import { bundleRole } from "./bundle.ts";

export interface StartEnvironment {
  /** Standard input, to its end. */
  readonly stdin: Uint8Array;
  /** File of the server program, run by this same Node. */
  readonly serverScript: string;
  /** containerd runs the shim with the bundle as working directory. */
  readonly cwd: string;
}

/** Milliseconds to learn whether the shim of an existing sandbox still answers. */
const CONNECT_LIMIT_MS = 2_000;

/** @returns what goes to stdout: `unix://<path>`, or a BootstrapResult for a caller that sent BootstrapParams. */
export async function startShim(
  flags: ShimArguments,
  environment: StartEnvironment,
): Promise<string | Uint8Array> {
  const params = bootstrapParams(environment.stdin, flags);
  const args =
    params === undefined
      ? { ...flags, config: runtimeConfigPath(environment.stdin) }
      : withParams(flags, params);
  const address = await startOrFind(args, params, environment);
  return params === undefined ? address : bootstrapResult(address);
}

/** Flags go first, for `delete` gets nothing else; a later containerd may give none to `start`. */
function withParams(flags: ShimArguments, params: BootstrapParams): ShimArguments {
  return {
    ...flags,
    id: flags.id || params.instanceId,
    namespace: flags.namespace || params.namespace,
    address: flags.address || params.grpcAddress,
    publishBinary: flags.publishBinary || params.containerdBinary,
    debug: flags.debug || params.logLevel < 0,
    config: params.configPath,
  };
}

async function startOrFind(
  args: ShimArguments,
  params: BootstrapParams | undefined,
  environment: StartEnvironment,
): Promise<string> {
  checkIdentifier("namespace", args.namespace);
  checkIdentifier("container id", args.id);
  const bundle = args.bundle === "" ? environment.cwd : args.bundle;
  const role = bundleRole(bundle);
  const sandboxId = role.role === "container" ? checkIdentifier("sandbox id", role.sandboxId) : args.id;
  const identity = { namespace: args.namespace, sandboxId, containerdAddress: args.address };
  const socketPath = checkedSocketPath(shimSocketPath(identity, params?.socketDir));
  const address = `unix://${socketPath}`;
  if (role.role === "container") {
    if (!(await answers(socketPath))) {
      throw new SandboxError(
        "ERR_NOT_FOUND",
        `the sandbox ${sandboxId} of container ${args.id} is not running (nothing answers at ${socketPath})`,
      );
    }
  } else {
    const env = { ...process.env, ...(params?.ttrpcAddress && { TTRPC_ADDRESS: params.ttrpcAddress }) };
    const tell = () => writeAddress(bundle, address);
    await launchServer(args, { socketPath, bundle, env, ...environment }, tell);
    return address;
  }
  writeAddress(bundle, address);
  return address;
}

const writeAddress = (bundle: string, address: string) =>
  fs.writeFileSync(path.join(bundle, "address"), address);

/** sizeof(sun_path) less the final zero (unix(7)). */
const MAX_SOCKET_PATH = 107;

function checkedSocketPath(socketPath: string): string {
  if (path.isAbsolute(socketPath) && Buffer.byteLength(socketPath) <= MAX_SOCKET_PATH) return socketPath;
  throw new SandboxError(
    "ERR_INVALID_ARGUMENT",
    `the socket ${socketPath} cannot be made: its path must be absolute and at most ${MAX_SOCKET_PATH} bytes`,
  );
}

interface ServerPlace {
  readonly socketPath: string;
  readonly bundle: string;
  readonly env: NodeJS.ProcessEnv;
  readonly serverScript: string;
}

/**
 * Starts the server and writes its pid into the bundle; leaves neither server nor socket when that fails.
 * @param tell what is still to be done for the server to be found.
 */
async function launchServer(args: ShimArguments, place: ServerPlace, tell: () => void): Promise<void> {
  const listener = await listen(place.socketPath, args.id);
  let child: ChildProcess | undefined;
  try {
    failPoint("start.bound");
    child = spawnServer(args, place, listener.fd);
    const pid = await pidOf(child);
    if (processStartTime(pid) === undefined) {
      throw new SandboxError("ERR_HOST", "the shim's server process ended at once");
    }
    failPoint("start.spawned");
    fs.writeFileSync(path.join(place.bundle, "shim.pid"), String(pid));
    tell();
  } catch (error) {
    child?.kill("SIGKILL");
    listener.unlink();
    throw error;
  }
}

function spawnServer(args: ShimArguments, place: ServerPlace, listenFd: number): ChildProcess {
  const { socketPath, bundle } = place;
  const flags = ["-namespace", args.namespace, "-id", args.id, "-address", args.address];
  if (args.publishBinary !== "") flags.push("-publish-binary", args.publishBinary);
  if (args.debug) flags.push("-debug");
  if (args.config !== "") flags.push("-config", args.config);
  flags.push("-bundle", bundle, "-socket", socketPath);
  const child: ChildProcess = spawn(
    process.execPath,
    ["--max-semi-space-size=1", place.serverScript, ...flags],
    {
      cwd: bundle,
      env: place.env,
      detached: true, // a session of its own: containerd's signals and its death do not reach it
      stdio: ["ignore", "ignore", "ignore", listenFd],
    },
  );
  child.unref();
  return child;
}

function pidOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("spawn", () => resolve(child.pid ?? 0));
  });
}

interface Listener {
  readonly fd: number;
  readonly unlink: () => void;
}

/** Binds the socket (0600). A stale file of a dead shim is replaced; a living one means that the id is in use. */
async function listen(socketPath: string, id: string): Promise<Listener> {
  fs.mkdirSync(path.dirname(socketPath), { recursive: true, mode: 0o711 });
  if (fs.existsSync(socketPath)) {
    if (await answers(socketPath)) {
      throw new SandboxError("ERR_ALREADY_EXISTS", `a shim for ${id} is running already at ${socketPath}`);
    }
    fs.rmSync(socketPath, { force: true });
  }
  const server = net.createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(socketPath, resolve);
  });
  fs.chmodSync(socketPath, 0o600);
  // Node has no public way to name a server's descriptor; the handle's `fd` has been stable since Node 0.x.
  const fd = (server as unknown as { _handle?: { fd: number } })._handle?.fd;
  if (fd === undefined) throw new SandboxError("ERR_INTERNAL", "the listening socket has no descriptor");
  return { fd, unlink: () => fs.rmSync(socketPath, { force: true }) };
}

/** Whether something accepts connections at `socketPath`. */
function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect(socketPath);
    const finish = (result: boolean) => {
      socket.destroy();
      resolve(result);
    };
    socket.setTimeout(CONNECT_LIMIT_MS, () => finish(false));
    socket.once("connect", () => finish(true));
    socket.once("error", () => finish(false));
  });
}
