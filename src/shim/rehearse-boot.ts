/** A boot without QEMU, for the recording of the server program's code cache (rehearse.ts). */
import { once } from "node:events";
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLog } from "../base/log.ts";
import { UndoStack } from "../base/undo.ts";
import { VERSION } from "../base/version.ts";
import { Task } from "../gen/containerd/task/v2/task_pb.ts";
import { OptionsSchema } from "../gen/runtimeoptions/v1/options_pb.ts";
import { createClient, serviceHandlers, TtrpcClient, TtrpcServer } from "../ttrpc/index.ts";
import { byteStreamFromSocket } from "../ttrpc/node-stream.ts";
import { sandboxOpener } from "./open-sandbox.ts";
import { packAny } from "./pack-any.ts";
import { TaskEvents } from "./task-events.ts";
import { taskHandlers } from "./task-service.ts";
import { Tasks } from "./tasks.ts";

/** Stands in for QEMU and its helpers: it ends at once. */
const PROGRAM = "/bin/true";

/**
 * Has the server's own parts take a Create as containerd sends it, of a sandbox whose every program is PROGRAM. The boot
 * fails when the vsock backend has ended, and undoes itself as any that fails.
 * @throws what Create answered, always.
 */
export async function rehearseBoot(): Promise<never> {
  await using undo = new UndoStack();
  const dir = mkdtempSync(join(realpathSync(tmpdir()), "caisson-"));
  undo.defer("directory", () => rmSync(dir, { recursive: true }));
  const identity = { namespace: "rehearsal", sandboxId: "rehearsal", containerdAddress: "" };
  const socket = join(dir, "socket");
  const log = { ...silentLog, child: () => log, addFile: () => undefined, showDebug: () => undefined };
  const tasks = new Tasks({
    log,
    events: new TaskEvents({ publish: () => undefined }),
    openSandbox: sandboxOpener({ identity, runDir: join(dir, "run"), socket, log }),
  });
  undo.defer("sandbox", () => tasks.stop());
  const handlers = taskHandlers({ tasks, version: VERSION, onShutdown: () => Promise.resolve() });
  const server = new TtrpcServer({ services: [serviceHandlers(Task, handlers)], log });
  const listener = net.createServer((peer) => void server.serve(byteStreamFromSocket(peer)));
  listener.listen(socket);
  undo.defer("listener", () => void listener.close());
  const connection = net.connect(socket);
  await once(connection, "connect");
  const client = new TtrpcClient(byteStreamFromSocket(connection), { peer: "the rehearsal" });
  undo.defer("connection", () => client.close());
  writeFileSync(join(dir, "config.toml"), configuration());
  writeFileSync(join(dir, "config.json"), JSON.stringify(spec));
  await createClient(Task, client).create({
    id: identity.sandboxId,
    bundle: dir,
    rootfs: [{ type: "bind", source: dir, options: ["rbind", "ro"] }],
    options: packAny(OptionsSchema, { configPath: join(dir, "config.toml") }),
  });
  throw new Error(`${PROGRAM} has booted`);
}

/** Node's own program is an ELF file, as a kernel is. */
const configuration = () => `[hypervisor.qemu]
path = "${PROGRAM}"
kernel = "${process.execPath}"
initrd = "${process.execPath}"
virtio_fs_daemon = "${PROGRAM}"
virtio_fs_daemon_flavour = "rust"
vhost_user_vsock_daemon = "${PROGRAM}"
vsock_backend = "vhost-user"
`;

const spec = {
  ociVersion: "1.0.2",
  process: { args: ["true"], cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 } },
  root: { path: "rootfs" },
  mounts: [{ destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] }],
  linux: {
    namespaces: ["pid", "ipc", "uts", "mount", "network"].map((type) => ({ type })),
    resources: {},
  },
};
