/**
 * The real agent as a process with namespaces of its own, a cgroup tree of its own and containers from the static
 * busybox of this machine. Needs root. Where the machine's cgroup2 has no controllers, limits are not testable here;
 * everything else is.
 */
import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { withDeadline } from "../../../src/base/deadline.ts";
import { type Event, StreamKind, StreamOpenSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import type { OciProcess, OciSpec } from "../../../src/oci/spec.ts";
import { FramedStream } from "../../../src/streams/index.ts";
import { built } from "../../harness/paths.ts";
import { AgentProcess } from "../guest-agent/agent-process.ts";

const LIMIT_MS = 10_000;

/** Mount point of the machine's cgroup2: the only hierarchy, or the one beside version 1 ("hybrid"). */
function cgroup2(): string {
  return existsSync("/sys/fs/cgroup/cgroup.controllers") ? "/sys/fs/cgroup" : "/sys/fs/cgroup/unified";
}

export interface ProcessResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly status: number;
}

export interface WorldOptions {
  /** The form of the root switch that an initramfs needs. */
  readonly moveRoot?: boolean;
  readonly sharePid?: boolean;
}

export type SpecEdit = (spec: Spec) => void;
/** A complete spec, so that tests can change parts without asking whether they are there. */
export type Spec = OciSpec & {
  process: OciProcess & { args: string[]; env: string[]; [key: string]: unknown };
  root: { path: string; readonly?: boolean };
  mounts: NonNullable<OciSpec["mounts"]>;
  linux: NonNullable<OciSpec["linux"]> & { [key: string]: unknown };
};

/** The set that container engines give by default. */
export const DEFAULT_CAPABILITIES = [
  "CHOWN",
  "DAC_OVERRIDE",
  "FSETID",
  "FOWNER",
  "MKNOD",
  "NET_RAW",
  "SETGID",
  "SETUID",
  "SETFCAP",
  "SETPCAP",
  "NET_BIND_SERVICE",
  "SYS_CHROOT",
  "KILL",
  "AUDIT_WRITE",
].map((name) => `CAP_${name}`);

export class ContainerWorld implements AsyncDisposable {
  readonly agent: AgentProcess;
  readonly dir: string;
  readonly cgroup: string;
  #count = 0;

  private constructor(agent: AgentProcess, dir: string, cgroup: string) {
    this.agent = agent;
    this.dir = dir;
    this.cgroup = cgroup;
  }

  static async start(options: WorldOptions = {}): Promise<ContainerWorld> {
    const dir = mkdtempSync(join(tmpdir(), "caisson-containers-"));
    const cgroup = mkdtempSync(join(cgroup2(), "caisson-test-"));
    process.env.CAISSON_CGROUP_ROOT = cgroup;
    process.env.CAISSON_ROOT_SWITCH = options.moveRoot === true ? "move" : "";
    const agent = await AgentProcess.start({ ownNamespaces: true });
    const world = new ContainerWorld(agent, dir, cgroup);
    await agent.calls.createSandbox({
      sandboxId: "pod",
      hostname: "podhost",
      sharePidNamespace: options.sharePid ?? false,
    });
    return world;
  }

  /** An id that was not used yet. */
  newId(): string {
    this.#count += 1;
    return `c${this.#count}`;
  }

  /** A root file system with busybox and all its applets; everything else is up to the test. */
  makeRootfs(id: string): string {
    const root = join(this.dir, id);
    for (const name of ["bin", "etc", "tmp", "root", "home/app"])
      mkdirSync(join(root, name), { recursive: true });
    copyFileSync(built.busybox, join(root, "bin/busybox"));
    const applets = execFileSync(built.busybox, ["--list"], { encoding: "utf8" }).trim().split("\n");
    for (const applet of applets) if (applet !== "busybox") symlinkSync("busybox", join(root, "bin", applet));
    writeFileSync(
      join(root, "etc/passwd"),
      "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n",
    );
    writeFileSync(join(root, "etc/group"), "root:x:0:\napp:x:1000:\n");
    return root;
  }

  /** What a container engine writes for `args`, near enough. */
  spec(args: readonly string[]): Spec {
    return {
      ociVersion: "1.1.0",
      process: {
        args: [...args],
        env: ["PATH=/bin:/usr/bin"],
        cwd: "/",
        user: { uid: 0, gid: 0 },
        noNewPrivileges: true,
        capabilities: {
          bounding: DEFAULT_CAPABILITIES,
          effective: DEFAULT_CAPABILITIES,
          permitted: DEFAULT_CAPABILITIES,
        },
        rlimits: [{ type: "RLIMIT_NOFILE", hard: 1024, soft: 1024 }],
      },
      root: { path: "rootfs" },
      mounts: [
        { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
        {
          destination: "/dev",
          type: "tmpfs",
          source: "tmpfs",
          options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
          destination: "/dev/pts",
          type: "devpts",
          source: "devpts",
          options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
          destination: "/dev/shm",
          type: "tmpfs",
          source: "shm",
          options: ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        },
        {
          destination: "/dev/mqueue",
          type: "mqueue",
          source: "mqueue",
          options: ["nosuid", "noexec", "nodev"],
        },
        { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
        {
          destination: "/sys/fs/cgroup",
          type: "cgroup",
          source: "cgroup",
          options: ["nosuid", "noexec", "nodev", "relatime", "ro"],
        },
        { destination: "/run", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
      ],
      linux: {
        namespaces: ["pid", "ipc", "uts", "mount"].map((type) => ({ type })),
        maskedPaths: ["/proc/kcore", "/proc/timer_list", "/proc/acpi", "/proc/scsi", "/sys/firmware"],
        readonlyPaths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
      },
    };
  }

  /** Creates a container; returns its id. */
  async create(
    args: readonly string[],
    edit: SpecEdit = () => undefined,
    stdio: Partial<Record<"stdin" | "terminal", boolean>> = {},
    id: string = this.newId(),
  ): Promise<string> {
    const rootfsPath = existsSync(join(this.dir, id)) ? join(this.dir, id) : this.makeRootfs(id);
    const spec = this.spec(args);
    edit(spec);
    await this.agent.calls.createContainer({
      containerId: id,
      specJson: Buffer.from(JSON.stringify(spec)),
      rootfsPath,
      stdio: { terminal: false, stdin: false, stdout: true, stderr: stdio.terminal !== true, ...stdio },
    });
    return id;
  }

  async start(id: string, execId = ""): Promise<number> {
    return (await this.agent.calls.startProcess({ containerId: id, execId })).pid;
  }

  /** Runs a container to its end and deletes it. */
  async run(args: readonly string[], edit?: SpecEdit, id?: string): Promise<ProcessResult> {
    const container = await this.create(args, edit, {}, id);
    try {
      await this.start(container);
      const result = await this.finish(container);
      await this.delete(container);
      return result;
    } catch (error) {
      await this.delete(container).catch(() => undefined);
      throw error;
    }
  }

  /** Runs a shell script in a container of its own. */
  sh(script: string, edit?: SpecEdit, id?: string): Promise<ProcessResult> {
    return this.run(["sh", "-c", script], edit, id);
  }

  /** A running container that does nothing until it is killed. */
  async sleeper(edit?: SpecEdit): Promise<string> {
    const id = await this.create(["sleep", "1000"], edit);
    await this.start(id);
    return id;
  }

  /** Registers and starts an exec; returns its id. */
  async exec(
    id: string,
    args: readonly string[],
    edit: (process: Spec["process"]) => void = () => undefined,
    stdio: Partial<Record<"stdin" | "terminal", boolean>> = {},
  ): Promise<string> {
    const execId = this.newId();
    const process = { ...this.spec(args).process };
    edit(process);
    await this.agent.calls.createExec({
      containerId: id,
      execId,
      processJson: Buffer.from(JSON.stringify(process)),
      stdio: { terminal: false, stdin: false, stdout: true, stderr: stdio.terminal !== true, ...stdio },
    });
    await this.start(id, execId);
    return execId;
  }

  /** Runs a process in a running container to its end. */
  async execSh(
    id: string,
    script: string,
    edit?: (process: Spec["process"]) => void,
  ): Promise<ProcessResult> {
    const execId = await this.exec(id, ["sh", "-c", script], edit);
    const result = await this.finish(id, execId);
    await this.agent.calls.deleteProcess({ containerId: id, execId });
    return result;
  }

  /** All output of a process and its exit status. */
  async finish(id: string, execId = ""): Promise<ProcessResult> {
    const [stdout, stderr, status] = await withDeadline(
      Promise.all([
        this.readAll(id, execId, StreamKind.STDOUT),
        this.readAll(id, execId, StreamKind.STDERR),
        this.exit(id, execId),
      ]),
      LIMIT_MS,
      `the end of ${id} ${execId}`,
    );
    return { stdout, stderr, status };
  }

  /** The status that the agent tells for a process. */
  async exit(id: string, execId = ""): Promise<number> {
    const event = await this.agent.event((candidate) => isExit(candidate, id, execId));
    return event.event.case === "processExited" ? event.event.value.status : -1;
  }

  hasExited(id: string, execId = ""): boolean {
    return this.agent.events.some((event) => isExit(event, id, execId));
  }

  async open(id: string, execId: string, kind: StreamKind): Promise<FramedStream> {
    const connection = await this.agent.dial(1025);
    const open = create(StreamOpenSchema, { containerId: id, execId, kind });
    const stream = FramedStream.open(connection, toBinary(StreamOpenSchema, open));
    await stream.opened;
    return stream;
  }

  async readAll(id: string, execId: string, kind: StreamKind): Promise<string> {
    const stream = await this.open(id, execId, kind);
    const chunks: Uint8Array[] = [];
    for await (const chunk of stream.readable) chunks.push(chunk);
    return Buffer.concat(chunks).toString();
  }

  async kill(id: string, signal: number, execId = "", all = false): Promise<void> {
    await this.agent.calls.signalProcess({ containerId: id, execId, signal, all });
  }

  /** Kills what still runs and deletes the container. */
  async delete(id: string): Promise<void> {
    await this.kill(id, 9, "", true).catch(() => undefined);
    const deadline = Date.now() + LIMIT_MS;
    for (;;) {
      try {
        await this.agent.calls.deleteProcess({ containerId: id, execId: "" });
        return;
      } catch (error) {
        if (Date.now() > deadline || !String(error).includes("cannot be deleted")) throw error;
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.agent.calls.shutdown({}).catch(() => undefined);
    await this.agent[Symbol.asyncDispose]();
    removeCgroup(this.cgroup);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

function isExit({ event }: Event, id: string, execId: string): boolean {
  return event.case === "processExited" && event.value.containerId === id && event.value.execId === execId;
}

/** Leftovers of tests that leave containers behind on purpose: the agent's end killed their processes. */
function removeCgroup(path: string): void {
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    if (entry.isDirectory()) removeCgroup(join(path, entry.name));
  }
  for (let attempt = 1; ; attempt++) {
    try {
      rmdirSync(path);
      return;
    } catch (error) {
      if (attempt === 100 || (error as NodeJS.ErrnoException).code !== "EBUSY") throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
  }
}
