/**
 * Where the user may have no inotify instance (argument: a FIFO): writes to a sink, finishes it, then reads. Prints what
 * was read when the sink has ended. For fifo.test.ts.
 */
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { FileEvent, watchFile } from "../../../src/native/index.ts";
import { openFifoSink } from "../../../src/runtime/stdio/fifo.ts";

const [file = ""] = process.argv.slice(2);
try {
  watchFile(file, FileEvent.Read, () => undefined)();
  throw new Error("there are inotify instances left");
} catch (error) {
  if ((error as NodeJS.ErrnoException).code !== "EMFILE") throw error;
}
const alive = setInterval(() => undefined, 1000);
const sink = openFifoSink(file);
await sink.write(Buffer.from("whole"));
let progress = 0;
const finished = sink.finish(() => progress++);
await Promise.race([finished, sleep(20)]);
const reader = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
const bytes = Buffer.alloc(5);
fs.readSync(reader, bytes);
await finished;
clearInterval(alive);
process.stdout.write(`${bytes} ${progress > 0}`);
