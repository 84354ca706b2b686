/**
 * Runs a pod that does nothing through the installed shim, as containerd would: `start`, the Task API, `delete`. What its
 * processes take is what any pod costs before its own containers.
 */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import fs from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describeError, SandboxError } from "../base/errors.ts";
import { timeoutMs } from "../base/timeouts.ts";
import { UndoStack } from "../base/undo.ts";
import { Task } from "../gen/containerd/task/v2/task_pb.ts";
import { sandboxDir } from "../persist/run-dir.ts";
import { type Client, createClient, TtrpcClient } from "../ttrpc/index.ts";
import { byteStreamFromSocket } from "../ttrpc/node-stream.ts";
import { type ProportionalMemory, proportionalByComponent, usageByComponent } from "./processes.ts";
import { readSandbox } from "./sandbox-record.ts";

export interface IdlePod {
  readonly seconds: number;
  /** At the end, by component. */
  readonly memory: Readonly<Record<string, ProportionalMemory>>;
  /** Seconds of processor time in that time, by component. */
  readonly cpuSeconds: Readonly<Record<string, number>>;
  /** Milliseconds from `start` to the pod being ready. */
  readonly startMs: number;
}

export interface IdlePodInit {
  /** The program containerd-shim-caisson-v2. */
  readonly shim: string;
  /** Configuration file; undefined for the default search. */
  readonly configPath: string | undefined;
  readonly seconds: number;
  readonly signal: AbortSignal;
}

const NAMESPACE = "caisson-overhead";
/** No containerd has this address: it only tells this sandbox from others of its name. */
const NO_CONTAINERD = "/nonexistent/containerd.sock";
/** Milliseconds after the boot that do not count: the guest kernel settles. */
const SETTLE_MS = 2_000;
const SIGKILL = 9;

/** @throws SandboxError: why the pod did not start. Nothing is left of it. */
export async function measureIdlePod(init: IdlePodInit): Promise<IdlePod> {
  await using undo = new UndoStack();
  const id = `idle-${randomBytes(4).toString("hex")}`;
  const bundle = fs.mkdtempSync(join(tmpdir(), `${id}-`));
  undo.defer("bundle", () => fs.rmSync(bundle, { recursive: true, force: true }));
  fs.writeFileSync(join(bundle, "config.json"), JSON.stringify(podSpec(id)));
  const startedAt = performance.now();
  undo.defer("shim delete", async () => void (await runShim(init, bundle, id, "delete")));
  const address = (await runShim(init, bundle, id, "start")).replace(/^unix:\/\//, "").trim();
  const client = new TtrpcClient(byteStreamFromSocket(await connect(address)), { peer: "the shim" });
  undo.defer("connection", () => client.close());
  const task = createClient(Task, client, { timeoutMs: timeoutMs("boot") });
  undo.defer("task", () => endTask(task, id));
  await task.create({ id, bundle });
  await task.start({ id });
  const startMs = performance.now() - startedAt;
  await sleep(SETTLE_MS, undefined, { signal: init.signal });
  const dir = sandboxDir({ namespace: NAMESPACE, sandboxId: id, containerdAddress: NO_CONTAINERD });
  return { startMs, ...(await measure(dir, init)) };
}

async function measure(dir: string, { seconds, signal }: IdlePodInit) {
  const processes = () => {
    const running = readSandbox(dir)?.processes ?? [];
    if (running.length === 0) throw new SandboxError("ERR_STATE", `the idle pod has no processes (${dir})`);
    return running;
  };
  const cpu = () =>
    Object.fromEntries(
      [...usageByComponent(processes())].map(([component, { cpuSeconds }]) => [component, cpuSeconds]),
    );
  const before = cpu();
  await sleep(seconds * 1000, undefined, { signal });
  const after = cpu();
  return {
    seconds,
    cpuSeconds: Object.fromEntries(
      Object.entries(after).map(([name, value]) => [name, value - (before[name] ?? 0)]),
    ),
    memory: Object.fromEntries(proportionalByComponent(processes())),
  };
}

/** A pod's pause container, as the CRI plugin writes it: the machine is all there is of it. */
function podSpec(id: string): unknown {
  return {
    ociVersion: "1.0.2",
    process: { args: ["/pause"], env: [], cwd: "/", user: { uid: 0, gid: 0 } },
    root: { path: "rootfs", readonly: true },
    mounts: [],
    annotations: {
      "io.kubernetes.cri.container-type": "sandbox",
      "io.kubernetes.cri.sandbox-id": id,
      "io.kubernetes.cri.sandbox-name": id,
      "io.kubernetes.cri.sandbox-namespace": NAMESPACE,
    },
    linux: { namespaces: ["pid", "ipc", "uts", "mount", "network"].map((type) => ({ type })) },
  };
}

function runShim(init: IdlePodInit, bundle: string, id: string, action: "start" | "delete"): Promise<string> {
  const args = ["-namespace", NAMESPACE, "-address", NO_CONTAINERD, "-id", id];
  if (action === "delete") args.push("-bundle", bundle);
  const env: NodeJS.ProcessEnv = { ...process.env };
  if (init.configPath !== undefined) env.CAISSON_CONF_FILE = init.configPath;
  // Events have nobody to go to.
  delete env.TTRPC_ADDRESS;
  return new Promise((resolve, reject) => {
    const options = { cwd: bundle, env, timeout: timeoutMs("boot"), encoding: "latin1" as const };
    const child = execFile(init.shim, [...args, action], options, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else
        reject(
          new SandboxError(
            "ERR_HOST",
            `${init.shim} ${action} failed: ${stderr.trim() || describeError(error)}`,
          ),
        );
    });
    child.stdin?.end();
  });
}

function connect(path: string): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ path, allowHalfOpen: true });
    socket.once("connect", () => resolve(socket));
    socket.once("error", (cause) =>
      reject(new SandboxError("ERR_UNAVAILABLE", `nothing answers at ${path}`, { cause })),
    );
  });
}

async function endTask(task: Client<typeof Task>, id: string): Promise<void> {
  const ignore = () => undefined;
  await task.kill({ id, signal: SIGKILL }).catch(ignore);
  await task.wait({ id }).catch(ignore);
  await task.delete({ id }).catch(ignore);
  await task.shutdown({ id, now: true }).catch(ignore);
}
