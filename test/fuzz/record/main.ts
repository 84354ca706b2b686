/**
 * Makes the binary part of the corpus from real peers: the kernel, QEMU, containerd's Go client, the guest's agent.
 *
 *     node --import tsx test/fuzz/record/main.ts
 *
 * Needs root and what `npm run setup` makes. Seeds that are text were written by hand and stay as they are.
 */
import { release } from "node:os";
import { writeSeed } from "../corpus.ts";
import { recordAgent } from "./agent.ts";
import { recordKernel } from "./kernel.ts";
import { sampleMessages } from "./messages.ts";
import { recordQemu } from "./qemu.ts";
import { recordTaskClient } from "./task-client.ts";

export type Save = (target: string, name: string, bytes: Uint8Array) => void;

/** Of the same length, so that no length in the message changes. */
const anyRelease = "6.1.0-0-cloud-amd64".padEnd(release().length, "0").slice(0, release().length);

const save: Save = (target, name, bytes) => {
  const text = Buffer.from(bytes).toString("latin1").replaceAll(release(), anyRelease);
  const neutral = Buffer.from(text, "latin1");
  console.log(`${writeSeed(target, name, neutral)}: ${neutral.length} bytes`);
};

await recordKernel(save);
await recordQemu(save);
await recordTaskClient(save);
await recordAgent(save);
sampleMessages(save);
