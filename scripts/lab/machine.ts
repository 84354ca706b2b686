/** One running host of the lab: started from its disk or from a saved state, entered, saved, ended. */
import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { withDeadline } from "../../src/base/deadline.ts";
import { waitForProcessExit } from "../../src/native/index.ts";
import { isSameProcess } from "../../src/persist/proc.ts";
import { duplexByteStream, QmpClient } from "../../src/qmp/index.ts";
import { type Places, placesOf, runDir } from "./places.ts";
import { type Beginning, consoleFile, diskFile, memoryFile, qemuLog, startQemu } from "./process.ts";
import { provideQemu, type Qemu, snapshotKey } from "./qemu.ts";
import {
  isStarted,
  makeRunDir,
  readRecord,
  removeDead,
  removeRun,
  type StartedRecord,
  writeRecord,
} from "./record.ts";
import { controlCommand, type SshTarget, sshCommand } from "./ssh.ts";
import { say, step } from "./steps.ts";

/**
 * "x-ignore-shared": memory that is a shared file is not part of the state, it is saved by being there. The next host has
 * the file mapped privately and reads of it what it needs.
 */
const capabilities = {
  capabilities: ["events", "x-ignore-shared"].map((capability) => ({ capability, state: true })),
};

/** A boot takes some 40 s on an idle machine with two cores. */
const BOOT_LIMIT_MS = 600_000;
const SAVE_LIMIT_MS = 300_000;
const SOCKET_LIMIT_MS = 20_000;

export interface StartInit {
  readonly variant: string;
  /** Directory for what this host writes; made, and removed with it. */
  readonly dir: string;
  /** Goes on after this process has ended; else it ends with it. */
  readonly detached: boolean;
  /** Boot although there is a saved host: one to be used, or one to be saved. */
  readonly boot?: "boot" | "boot-to-save";
}

export class LabMachine {
  readonly places: Places;
  readonly dir: string;
  #record: StartedRecord;

  private constructor(places: Places, dir: string, record: StartedRecord) {
    this.places = places;
    this.dir = dir;
    this.#record = record;
  }

  /** Starts a host and waits until it can be entered. The caller stops it. Preconditions: its disk is built. */
  static async start(init: StartInit): Promise<LabMachine> {
    const places = placesOf(init.variant);
    const qemu = await provideQemu();
    const beginning = init.boot ?? (isSaved(qemu, places) ? "saved" : "boot");
    if (!existsSync(places.disk)) throw new Error(`${init.variant} has no disk: npm run lab -- build`);
    removeDead(init.variant);
    const title = beginning === "saved" ? "resuming the saved host" : "booting the host";
    let note = "";
    return await step(
      title,
      async () => {
        const begun = performance.now();
        const machine = LabMachine.#begin(init, qemu, beginning);
        try {
          await machine.#findSsh();
          if (beginning === "saved") await machine.#resume();
          else await machine.#booted();
          note = `running after ${((performance.now() - begun) / 1000).toFixed(2)} s`;
          await machine.#entered();
        } catch (error) {
          if (error instanceof Error) error.message += machine.#lastWords();
          await machine.stop();
          throw error;
        }
        return machine;
      },
      { note: () => note },
    );
  }

  static #begin(init: StartInit, qemu: Qemu, beginning: Beginning): LabMachine {
    const places = placesOf(init.variant);
    const record = makeRunDir(init.dir, join(tmpdir(), `lab-${randomBytes(6).toString("hex")}`));
    try {
      return new LabMachine(places, init.dir, startQemu({ ...init, qemu, places, record, beginning }));
    } catch (error) {
      removeRun(init.dir, record);
      throw error;
    }
  }

  /** The host that `start` left running in `dir`. */
  static find(variant: string, dir: string): LabMachine | undefined {
    const record = readRecord(dir);
    if (record === undefined || !isStarted(record) || !isSameProcess(record.pid, record.startTime))
      return undefined;
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

  #write(record: StartedRecord): void {
    this.#record = record;
    writeRecord(this.dir, record);
  }

  /** Saves the host as what later ones go on from, which ends it. Preconditions: booted to be saved. */
  async save(): Promise<void> {
    const { snapshot } = this.places;
    const qemu = await provideQemu();
    await this.#run(["sync"]);
    this.#closeSsh();
    const qmp = await this.#qmp();
    rmSync(snapshot.key, { force: true });
    await qmp.execute("migrate-set-capabilities", capabilities);
    const ended = new Promise<string>((resolve) => {
      qmp.on("MIGRATION", ({ data: { status } }) => {
        if (status === "completed" || status === "failed") resolve(status);
      });
    });
    await qmp.execute("migrate", { uri: `file:${snapshot.state}` });
    const status = await withDeadline(ended, SAVE_LIMIT_MS, "saving the host");
    if (status !== "completed") throw new Error(`the host could not be saved: ${status}`);
    await this.#quit(qmp);
    renameSync(diskFile(this.dir), snapshot.disk);
    renameSync(memoryFile(this.dir), snapshot.memory);
    writeFileSync(snapshot.key, snapshotKey(qemu, this.places));
    this.#remove();
  }

  /** Ends the host as if its power failed, and removes what it wrote. */
  async stop(): Promise<void> {
    this.#closeSsh();
    if (this.running) process.kill(this.pid, "SIGKILL");
    await this.ended();
    this.#remove();
  }

  /** Whether there is a connection to share, which the first command makes and the host's end breaks. */
  get connected(): boolean {
    return this.#controlSsh("check");
  }

  /** Waits for QEMU's end, which takes a while after its connections have broken. @returns false when it goes on */
  async ended(): Promise<boolean> {
    await waitForProcessExit(this.pid, SOCKET_LIMIT_MS, () => this.running);
    return !this.running;
  }

  #remove(): void {
    removeRun(this.dir, this.#record);
  }

  async #booted(): Promise<void> {
    const socket = await connected(join(this.#record.sockets, "ready"));
    try {
      await withDeadline(this.#orGone(once(socket, "data")), BOOT_LIMIT_MS, "waiting for the host to boot");
    } finally {
      socket.destroy();
    }
  }

  /** Enters it by ssh, and sets its clock, which stood still while it was saved. */
  async #entered(): Promise<void> {
    await this.#run(["date", "-s", `@${(Date.now() / 1000).toFixed(3)}`]);
  }

  async #findSsh(): Promise<void> {
    const qmp = await this.#qmp();
    this.#write({ ...this.#record, sshPort: await sshPortOf(qmp) });
    qmp.close();
  }

  async #resume(): Promise<void> {
    const qmp = await this.#qmp();
    const resumed = qmp.waitFor("RESUME", () => true, AbortSignal.timeout(SAVE_LIMIT_MS));
    await qmp.execute("migrate-set-capabilities", capabilities);
    await qmp.execute("migrate-incoming", { uri: `file:${this.places.snapshot.state}` });
    await this.#orGone(resumed);
    qmp.close();
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
    const socket = await this.#orGone(connected(join(this.#record.sockets, "qmp")));
    return await QmpClient.connect({ stream: duplexByteStream(socket) });
  }

  async #quit(qmp: QmpClient): Promise<void> {
    await qmp.execute("quit").catch(() => undefined);
    await withDeadline(qmp.closed, SOCKET_LIMIT_MS, "ending the host");
    await this.ended();
  }

  #closeSsh(): void {
    this.#controlSsh("exit");
  }

  /** @returns whether there was a connection */
  #controlSsh(command: "check" | "exit"): boolean {
    if (!existsSync(join(this.#record.sockets, "ssh"))) return false;
    const [file = "", ...args] = controlCommand(this.ssh, command);
    return spawnSync(file, args, { stdio: "ignore" }).status === 0;
  }

  #lastWords(): string {
    const end = (file: string) => {
      const lines = existsSync(file) ? readFileSync(file, "utf8").trimEnd().split("\n") : [];
      return `\n--- ${basename(file)}\n${lines.slice(-20).join("\n")}`;
    };
    return end(qemuLog(this.dir)) + end(consoleFile(this.dir));
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
  const machine = await LabMachine.start({ variant, dir, detached: false, boot: "boot-to-save" });
  try {
    await step("saving the host", () => machine.save());
  } finally {
    await machine.stop();
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
