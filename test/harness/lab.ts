/** A host of the lab for a test file: resumed from its saved state, ended with the file. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { LabMachine } from "../../scripts/lab/machine.ts";
import { runDir } from "../../scripts/lab/places.ts";
import { getCommand, putCommand, sshCommand } from "../../scripts/lab/ssh.ts";
import { VERSION } from "../../src/base/version.ts";
import { busyboxEntries, writeImage } from "./oci-image.ts";
import { built, repositoryRoot } from "./paths.ts";
import { type RunOptions, type RunResult, run, runOk } from "./run.ts";

/** Which host: "debian13" unless CAISSON_LAB_HOST names another. */
export const labVariant = process.env.CAISSON_LAB_HOST ?? "debian13";

/** Debian 12's own Node is too old: its package brings one. */
const withNode = labVariant === "debian12";

/** The Node that runs our programs in the host. */
export const labNode = withNode ? "/usr/lib/caisson/bin/node" : "/usr/bin/node";

/** The image that `importImage` puts into the host's containerd. */
export const LAB_IMAGE = "docker.io/library/busybox:caisson";

/** For one command in an emulated host on a busy machine. */
const COMMAND_LIMIT_MS = 600_000;

export class LabHost implements AsyncDisposable {
  readonly #machine: LabMachine;
  /** Directory for files of the test. It goes with the host, also when the test's process is killed. */
  readonly scratch: string;

  private constructor(machine: LabMachine, scratch: string) {
    this.#machine = machine;
    this.scratch = scratch;
  }

  /** The caller disposes of it. Preconditions: `npm run lab -- snapshot` (which `npm run lab -- test` does first). */
  static async start(): Promise<LabHost> {
    const dir = runDir(labVariant, String(process.pid));
    const machine = await LabMachine.start({ variant: labVariant, dir, detached: false });
    const scratch = join(dir, "scratch");
    mkdirSync(scratch);
    return new LabHost(machine, scratch);
  }

  /** Runs a shell script as root in the host. */
  sh(script: string, options: RunOptions = {}): Promise<RunResult> {
    const argv = sshCommand(this.#machine.ssh, ["sh", "-c", script]);
    return run(argv, { timeoutMs: COMMAND_LIMIT_MS, ...options });
  }

  /** The standard output of a script that has to succeed. */
  async shOk(script: string, options: RunOptions = {}): Promise<string> {
    const argv = sshCommand(this.#machine.ssh, ["sh", "-ec", script]);
    return (await runOk(argv, { timeoutMs: COMMAND_LIMIT_MS, ...options })).stdout;
  }

  async put(sources: readonly string[], destination: string): Promise<void> {
    await runOk(putCommand(this.#machine.ssh, sources, destination), { timeoutMs: COMMAND_LIMIT_MS });
  }

  /** Puts the content of a directory, links as they are, into one of the host, which is made. */
  async putTree(directory: string, destination: string): Promise<void> {
    const archive = join(this.scratch, "tree.tar");
    await runOk(["tar", "-C", directory, "-cf", archive, "."]);
    await this.put([archive], "/root/");
    await this.shOk(`mkdir -p ${destination}; tar -C ${destination} -xf /root/tree.tar; rm /root/tree.tar`);
  }

  async get(source: string, destination: string): Promise<void> {
    await runOk(getCommand(this.#machine.ssh, source, destination), { timeoutMs: COMMAND_LIMIT_MS });
  }

  /** Builds our package as `version` and puts it into the host. @returns its path there */
  async putPackage(version = VERSION): Promise<string> {
    await this.#build(version);
    return await this.#putBuilt(`caisson${withNode ? "-with-node" : ""}_${version}_amd64.deb`);
  }

  /** Puts the tarball of the same build into the host. Preconditions: putPackage(). @returns its path there */
  async putTarball(version = VERSION): Promise<string> {
    return await this.#putBuilt(`caisson${withNode ? "-with-node" : ""}-${version}-linux-x64.tar.gz`);
  }

  async #build(version: string): Promise<void> {
    const script = join(repositoryRoot, "scripts/package.ts");
    const options = ["--output", this.scratch, "--package-version", version];
    if (withNode) options.push("--with-node");
    await runOk([process.execPath, "--import", "tsx", script, ...options], {
      cwd: repositoryRoot,
      timeoutMs: 300_000,
    });
  }

  async #putBuilt(name: string): Promise<string> {
    await this.put([join(this.scratch, name)], "/root/");
    return `/root/${name}`;
  }

  /** Installs a package as a user does, without a network. */
  async install(path: string): Promise<string> {
    return await this.shOk(`DEBIAN_FRONTEND=noninteractive apt-get install -q -y ${path} 2>&1`);
  }

  /** Starts a service, or waits for one that is being started. @throws with its journal */
  async startService(name: string): Promise<void> {
    await this.shOk(`systemctl start ${name} || { journalctl --no-pager -u ${name} >&2; exit 1; }`);
  }

  async importImage(): Promise<void> {
    const archive = join(this.scratch, "busybox.tar");
    const applets = (await runOk([built.busybox, "--list"])).stdout.trim().split("\n");
    writeImage(archive, { name: LAB_IMAGE, entries: busyboxEntries(built.busybox, applets) });
    await this.put([archive], "/root/");
    await this.shOk("ctr image import /root/busybox.tar");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#machine.stop();
  }
}
