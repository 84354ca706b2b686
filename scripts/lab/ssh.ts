/** Commands and files for a host of the lab, by ssh over loopback; one connection is kept and shared. */
import { join } from "node:path";

export interface SshTarget {
  readonly key: string;
  readonly port: number;
  /** Directory for the shared connection's socket. */
  readonly sockets: string;
}

/** Seconds for the handshake, which the emulated host computes. */
const CONNECT_LIMIT_S = 120;

function options(target: SshTarget): string[] {
  const settings = [
    "BatchMode=yes",
    // The host is on loopback and its key is made anew with each disk.
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "LogLevel=ERROR",
    "IdentitiesOnly=yes",
    `IdentityFile=${target.key}`,
    `ConnectTimeout=${CONNECT_LIMIT_S}`,
    `ControlPath=${join(target.sockets, "ssh")}`,
    // The cheapest for an emulated processor; nobody listens on loopback.
    "KexAlgorithms=ecdh-sha2-nistp256",
    "ControlMaster=auto",
    "ControlPersist=yes",
  ];
  return ["-F", "none", ...settings.flatMap((setting) => ["-o", setting])];
}

/** A word as a POSIX shell reads it back. */
export function shellQuote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** The command line that runs `argv` as the host's root: its output, input and exit status are those of ssh. */
export function sshCommand(target: SshTarget, argv: readonly string[], terminal = false): string[] {
  const words = argv.map(shellQuote).join(" ");
  const port = ["-p", String(target.port)];
  return ["ssh", ...options(target), ...port, terminal ? "-tt" : "-T", "root@127.0.0.1", words];
}

export function putCommand(target: SshTarget, sources: readonly string[], destination: string): string[] {
  return [...copy(target), ...sources, `root@127.0.0.1:${destination}`];
}

export function getCommand(target: SshTarget, source: string, destination: string): string[] {
  return [...copy(target), `root@127.0.0.1:${source}`, destination];
}

function copy(target: SshTarget): string[] {
  return ["scp", "-rp", ...options(target), "-P", String(target.port)];
}

/** Ends the shared connection, or looks whether it lives; the exit status is not 0 when there is none. */
export function controlCommand(target: SshTarget, command: "check" | "exit"): string[] {
  return ["ssh", ...options(target), "-p", String(target.port), "-O", command, "root@127.0.0.1"];
}
