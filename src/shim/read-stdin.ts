/** What containerd put on the standard input of a verb. */
import fs from "node:fs";
import { isatty } from "node:tty";

/** More than this is not read: containerd's own shims stop there too. */
const LIMIT = 10 << 20;

/** Everything on stdin; nothing when it is closed, or a person's terminal. containerd always ends it. */
export function readStdin(): Uint8Array {
  if (isatty(0)) return new Uint8Array();
  const chunks: Uint8Array[] = [];
  for (let total = 0; total < LIMIT; ) {
    const chunk = new Uint8Array(64 << 10);
    let count: number;
    try {
      count = fs.readSync(0, chunk);
    } catch {
      break; // closed, or nothing there on a descriptor that does not wait
    }
    if (count === 0) break;
    total += count;
    chunks.push(chunk.subarray(0, count));
  }
  return Buffer.concat(chunks);
}
