/** One running host of the lab: started from its disk or from a saved state, entered, saved, ended. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { withDeadline } from "../../src/base/deadline.ts";
import { waitForProcessExit } from "../../src/native/index.ts";
import { isSameProcess, processStartTime } from "../../src/persist/proc.ts";
import { duplexByteStream, QmpClient } from "../../src/qmp/index.ts";
import { type Places, placesOf, RUN_PREFIX, runDir } from "./places.ts";
import { hostArguments, provideQemu, type Qemu, snapshotKey } from "./qemu.ts";
import { closeCommand, type SshTarget, sshCommand } from "./ssh.ts";
import { ENDS_WITH_US, say, step } from "./steps.ts";

/** A boot takes some 40 s on an idle machine with two cores. */
const BOOT_LIMIT_MS = 600_000;
const SAVE_LIMIT_MS = 300_000;
const SOCKET_LIMIT_MS = 20_000;

interface Record {
  readonly pid: number;
  readonly startTime: string;
  /** Short, for the sake of socket paths. */
  readonly sockets: string;
  /** From when QEMU has told it. */
  readonly sshPort?: number;
}

export interface StartInit {
  readonly variant: string;
  /** Directory for what this host writes; made, and removed with it. */
  readonly dir: string;
  /** Goes on after this process has ended; else it ends with it. */
  readonly detached: boolean;
  /** Boot although there is a saved state. */
  readonly fresh?: boolean;
}

export class LabMachine {
  readonly places: Places;
  readonly dir: string;
  #record: Record;

  private constructor(places: Places, dir: string, record: Record) {
    this.places = places;
    this.dir = dir;
    this.#record = record;
  }

  /** Starts a host and waits until it can be entered. The caller stops it. Preconditions: its disk is built. */
  static async start(init: StartInit): Promise<LabMachine> {
    const places = placesOf(init.variant);
    const qemu = await provideQemu();
    const saved = init.fresh !== true && isSaved(qemu, places);
    if (!existsSync(places.disk)) throw new Error(`${init.variant} has no disk: npm run lab -- build`);
    removeDead(init.variant);
    rmSync(init.dir, { recursive: true, force: true });
    mkdirSync(init.dir, { recursive: true });
    const disk = join(init.dir, "disk.qcow2");
    const [below, format] = saved ? [places.snapshot.disk, "qcow2"] : [places.disk, "raw"];
    execFileSync(qemu.image, ["create", "-q", "-f", "qcow2", "-b", below, "-F", format, disk]);
    const sockets = mkdtempSync(join(tmpdir(), "lab-"));
    const args = hostArguments(qemu, {
      places,
      disk,
      sockets,
      console: join(init.dir, "console.log"),
      ...(saved ? { state: places.snapshot.state } : {}),
    });
    const pid = spawnQemu(qemu, args, join(init.dir, "qemu.log"), init.detached);
    const record: Record = { pid, startTime: processStartTime(pid) ?? "", sockets };
    const machine = new LabMachine(places, init.dir, record);
    machine.#write(record);
    try {
      const qmp = await machine.#qmp();
      machine.#write({ ...record, sshPort: await sshPortOf(qmp) });
      qmp.close();
      if (saved) await step("resuming the saved host", () => machine.#resume());
      else await step("booting the host", () => machine.#booted());
    } catch (error) {
      if (error instanceof Error) error.message += machine.#lastWords();
      await machine.stop();
      throw error;
    }
    return machine;
  }

  /** The host that `start` left running in `dir`. */
  static find(variant: string, dir: string): LabMachine | undefined {
    const record = readRecord(dir);
    if (record === undefined || !isSameProcess(record.pid, record.startTime)) return undefined;
    return new LabMachine(placesOf(variant), dir, record);
  }

  /** QEMU's process. */
  get pid(): number {
    return this.#record.pid;
  }

  get running(): boolean {
    return isSameProcess(this.#record.pid, this.#record.startTime);
  }

  get ssh(): SshTarget {
    const { sshPort, sockets } = this.#record;
    if (sshPort === undefined) throw new Error("the host is still being started");
    return { key: this.places.sshKey, port: sshPort, sockets };
  }

  #write(record: Record): void {
    this.#record = record;
    writeFileSync(recordFile(this.dir), JSON.stringify(record));
  }

  /** Saves the host as what later ones go on from, which ends it. Preconditions: booted from the disk. */
  async save(): Promise<void> {
    const { snapshot } = this.places;
    const qemu = await provideQemu();
    await this.#run(["sync"]);
    this.#closeSsh();
    const qmp = await this.#qmp();
    rmSync(snapshot.key, { force: true });
    await qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] });
    const ended = new Promise<string>((resolve) => {
      qmp.on("MIGRATION", ({ data: { status } }) => {
        if (status === "completed" || status === "failed") resolve(status);
      });
    });
    await qmp.execute("migrate", { uri: `file:${snapshot.state}` });
    const status = await withDeadline(ended, SAVE_LIMIT_MS, "saving the host");
    if (status !== "completed") throw new Error(`the host could not be saved: ${status}`);
    await this.#quit(qmp);
    renameSync(join(this.dir, "disk.qcow2"), snapshot.disk);
    writeFileSync(snapshot.key, snapshotKey(qemu, this.places));
    this.#remove();
  }

  /** Ends the host as if its power failed, and removes what it wrote. */
  async stop(): Promise<void> {
    this.#closeSsh();
    if (this.running) process.kill(this.pid, "SIGKILL");
    await this.#ended();
    this.#remove();
  }

  #ended(): Promise<void> {
    return waitForProcessExit(this.pid, SOCKET_LIMIT_MS, () => this.running);
  }

  #remove(): void {
    rmSync(this.#record.sockets, { recursive: true, force: true });
    rmSync(this.dir, { recursive: true, force: true });
  }

  async #booted(): Promise<void> {
    const socket = await connected(join(this.#record.sockets, "ready"));
    try {
      await withDeadline(this.#orGone(once(socket, "data")), BOOT_LIMIT_MS, "waiting for the host to boot");
    } finally {
      socket.destroy();
    }
    await this.#run(["true"]);
  }

  async #resume(): Promise<void> {
    const qmp = await this.#qmp();
    const resumed = qmp.waitFor("RESUME", () => true, AbortSignal.timeout(SAVE_LIMIT_MS));
    resumed.catch(() => undefined); // when it runs already, nobody waits
    const { running } = await qmp.execute("query-status");
    if (!running) await this.#orGone(resumed);
    qmp.close();
    // The host's clock stood still while it was saved.
    await this.#run(["date", "-s", `@${(Date.now() / 1000).toFixed(3)}`]);
  }

  /** Fails when QEMU ends first. */
  #orGone<T>(promise: Promise<T>): Promise<T> {
    let watch: NodeJS.Timeout | undefined;
    const gone = new Promise<never>((_resolve, reject) => {
      watch = setInterval(() => {
        if (!this.running) reject(new Error("the host's QEMU has ended"));
      }, 500);
    });
    // What is waited for may never come once QEMU is gone.
    return Promise.race([promise, gone]).finally(() => clearInterval(watch));
  }

  async #run(argv: readonly string[]): Promise<void> {
    const [file = "", ...args] = sshCommand(this.ssh, argv);
    const child = spawn(file, args, { stdio: ["ignore", "ignore", "pipe"], timeout: BOOT_LIMIT_MS });
    let errors = "";
    child.stderr.on("data", (chunk: Buffer) => {
      errors += chunk.toString();
    });
    // Not "close": the shared connection's process keeps standard error open.
    const [code] = (await this.#orGone(once(child, "exit"))) as [number | null];
    child.stderr.destroy();
    if (code !== 0) throw new Error(`${argv.join(" ")} in the host: exit ${code}: ${errors.trim()}`);
  }

  async #qmp(): Promise<QmpClient> {
    const socket = await connected(join(this.#record.sockets, "qmp"));
    return await QmpClient.connect({ stream: duplexByteStream(socket) });
  }

  async #quit(qmp: QmpClient): Promise<void> {
    await qmp.execute("quit").catch(() => undefined);
    await withDeadline(qmp.closed, SOCKET_LIMIT_MS, "ending the host");
    await this.#ended();
  }

  #closeSsh(): void {
    if (!existsSync(join(this.#record.sockets, "ssh"))) return;
    const [file = "", ...args] = closeCommand(this.ssh);
    try {
      execFileSync(file, args, { stdio: "ignore" });
    } catch {
      // It has ended with the host.
    }
  }

  #lastWords(): string {
    const end = (name: string) => {
      const file = join(this.dir, name);
      const lines = existsSync(file) ? readFileSync(file, "utf8").trimEnd().split("\n") : [];
      return `\n--- ${name}\n${lines.slice(-20).join("\n")}`;
    };
    return end("qemu.log") + end("console.log");
  }
}

const recordFile = (dir: string) => join(dir, "record.json");

function readRecord(dir: string): Record | undefined {
  const file = recordFile(dir);
  return existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as Record) : undefined;
}

/** Removes what hosts wrote that were killed together with those who would have stopped them. */
function removeDead(variant: string): void {
  const { dir } = placesOf(variant);
  for (const name of readdirSync(dir).filter((entry) => entry.startsWith(RUN_PREFIX))) {
    const record = readRecord(join(dir, name));
    if (record === undefined || isSameProcess(record.pid, record.startTime)) continue;
    rmSync(record.sockets, { recursive: true, force: true });
    rmSync(join(dir, name), { recursive: true, force: true });
  }
}

/** Whether there is a saved state that the host can go on from. */
export function isSaved(qemu: Qemu, places: Places): boolean {
  const { key } = places.snapshot;
  return existsSync(key) && readFileSync(key, "utf8") === snapshotKey(qemu, places);
}

/** Boots a host and saves it, unless that is done. */
export async function provideSnapshot(variant: string): Promise<void> {
  const places = placesOf(variant);
  if (isSaved(await provideQemu(), places)) return say(`${variant}: the saved host is up to date`);
  const dir = runDir(variant, "to-save");
  const machine = await LabMachine.start({ variant, dir, detached: false, fresh: true });
  try {
    await step("saving the host", () => machine.save());
  } finally {
    await machine.stop();
  }
}

/** @returns the pid. Unless `detached` it ends with this process, however that ends. */
function spawnQemu(qemu: Qemu, args: readonly string[], log: string, detached: boolean): number {
  const fd = openSync(log, "w");
  const argv = [...(detached ? [] : ENDS_WITH_US), qemu.system, ...args];
  try {
    const child = spawn(argv[0] ?? "", argv.slice(1), { stdio: ["ignore", fd, fd], detached });
    child.on("error", () => undefined); // the pid is then undefined
    if (child.pid === undefined) throw new Error(`${argv[0]} cannot be started`);
    if (detached) child.unref();
    return child.pid;
  } finally {
    closeSync(fd);
  }
}

/** The port of loopback that QEMU leads to the host's ssh: the system chose it, so that it cannot be taken. */
async function sshPortOf(qmp: QmpClient): Promise<number> {
  const answer = await qmp.executeRaw("human-monitor-command", { "command-line": "info usernet" });
  const port = /TCP\[HOST_FORWARD\] +\d+ +127\.0\.0\.1 +(\d+) /.exec(String(answer))?.[1];
  if (port === undefined) throw new Error(`QEMU does not lead to the host's ssh: ${answer}`);
  return Number(port);
}

/** Connects to a socket that QEMU makes as it starts. */
async function connected(path: string): Promise<Socket> {
  const deadline = performance.now() + SOCKET_LIMIT_MS;
  for (;;) {
    const socket = connect(path);
    try {
      await once(socket, "connect");
      return socket;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await sleep(50);
    }
  }
}
