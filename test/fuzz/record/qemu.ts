/** What a QEMU without a machine says on its monitor. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import type { Save } from "./main.ts";

const commands = ["query-status", "query-version", "query-kvm", "no-such-command", "stop", "cont", "quit"];

export async function recordQemu(save: Save): Promise<void> {
  const argv = ["-machine", "none", "-display", "none", "-nodefaults", "-S", "-qmp", "stdio"];
  const child = spawn("qemu-system-x86_64", argv, { stdio: ["pipe", "pipe", "inherit"] });
  const chunks: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  const lines = commands.map((command, index) => JSON.stringify({ execute: command, id: index + 2 }));
  child.stdin.end(`${JSON.stringify({ execute: "qmp_capabilities", id: 1 })}\n${lines.join("\n")}\n`);
  await once(child, "exit");
  const said = Buffer.concat(chunks);
  save("qmp-messages", "conversation", said);
  save("qmp-client", "conversation", said);
}
