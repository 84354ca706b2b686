/**
 * How CRI-O gets at a shim (cri-o internal/oci/runtime_vm.go, startRuntimeDaemon; containerd's runtime/v2/shim util.go,
 * Command and AnonDialer): the program with nothing but an id, and an address from its output or from the bundle.
 */
import { spawn } from "node:child_process";
import { constants, existsSync, openSync, symlinkSync } from "node:fs";
import net from "node:net";
import { basename, dirname, join } from "node:path";
import { SandboxError } from "../../src/base/errors.ts";
import { Task } from "../../src/gen/containerd/task/v2/task_pb.ts";
import { type Client, createClient, TtrpcClient } from "../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../src/ttrpc/node-stream.ts";
import { built } from "./paths.ts";
import { runOk } from "./run.ts";
import { WORLD_VARIABLE, type World } from "./world.ts";

/** CRI-O's shims are all in containerd's default namespace, whatever the pod's is. */
const NAMESPACE = "default";
/** RuntimeTypeVMBinaryPattern of CRI-O's pkg/config. */
const BINARY_PATTERN = /^containerd-shim-[a-zA-Z0-9\-+]+$/;

export interface ShimConnection {
  readonly task: Client<typeof Task>;
  close(): void;
}

export interface DaemonInit {
  readonly world: World;
  readonly id: string;
  readonly bundle: string;
  /** CRI-O itself logs at the level debug. */
  readonly debug: boolean;
  /** Takes what comes out of the FIFO `<bundle>/log`. */
  readonly onLog: (text: string) => void;
}

/** Makes the log's FIFO, runs the `start` verb in the bundle, and connects to the address that it prints. */
export async function startRuntimeDaemon(init: DaemonInit): Promise<ShimConnection> {
  const { world, bundle } = init;
  if (!BINARY_PATTERN.test(basename(built.shim))) throw new Error(`CRI-O refuses the name of ${built.shim}`);
  await readShimLog(join(bundle, "log"), init.onLog);
  const flags = ["-namespace", NAMESPACE, "-address", "", "-publish-binary", "/usr/bin/crio", "-id", init.id];
  const argv = [built.shim, ...flags, ...(init.debug ? ["-debug"] : []), "start"];
  const inBundle = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", bundle, ...argv];
  const env = {
    HOME: "/root",
    PATH: `${dirname(process.execPath)}:/usr/sbin:/usr/bin:/sbin:/bin`,
    GOMAXPROCS: "2",
    MAX_SHIM_VERSION: "2",
    TTRPC_ADDRESS: "",
    GRPC_ADDRESS: "",
    NAMESPACE,
    [WORLD_VARIABLE]: world.name,
  };
  const { code, output } = await combinedOutput(world.enter(inBundle), env);
  if (code !== 0) throw new Error(`${output}: exit status ${code}`);
  return await connect(world, output.trim());
}

/** What is printed, and what is in `<bundle>/address`: the address alone. */
export async function connect(world: World, address: string): Promise<ShimConnection> {
  const path = /^unix:\/\/(\/\S+)$/.exec(address)?.[1];
  if (path === undefined) throw new Error(`not an address: ${JSON.stringify(address)}`);
  // A short way to a path of the world, for the sake of sun_path.
  const link = join(world.dir, "s");
  if (!existsSync(link)) symlinkSync(world.outside(dirname(path)), link);
  const socket = net.connect(join(link, basename(path)));
  await new Promise<void>((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("error", reject);
  });
  const client = new TtrpcClient(byteStreamFromSocket(socket), { peer: "the shim" });
  const metadata = { "containerd-namespace-ttrpc": NAMESPACE };
  // CRI-O gives none of these calls a deadline but Create; a test file has its own.
  const task = createClient(Task, client, { metadata });
  return { task, close: () => client.close() };
}

/** Whether the connection ended before the answer came, which CRI-O takes for success of Delete and Shutdown. */
export const isClosed = (error: unknown): boolean =>
  error instanceof SandboxError && error.code === "ERR_UNAVAILABLE";

async function readShimLog(path: string, onLog: (text: string) => void): Promise<void> {
  await runOk(["mkfifo", "-m", "0700", path]);
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const socket = new net.Socket({ fd, readable: true, writable: false });
  socket.on("data", (chunk: Buffer) => onLog(chunk.toString()));
  socket.unref();
}

/**
 * Standard output and error as one, as CRI-O read them up to 1.35; since then it takes the address from standard output
 * alone, which this is when the shim says nothing on the other.
 */
function combinedOutput([file = "", ...args]: readonly string[], env: NodeJS.ProcessEnv) {
  return new Promise<{ code: number | null; output: string }>((resolve, reject) => {
    const child = spawn(file, args, { env, stdio: ["ignore", "pipe", "pipe"], detached: true });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        output += chunk.toString();
      });
    }
    child.once("error", reject);
    // "close": Go waits for the end of the pipe too, which a daemon that kept it would never give.
    child.once("close", (code) => resolve({ code, output }));
  });
}
