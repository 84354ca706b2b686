/**
 * The shim's logger: pino, one JSON line a record, written synchronously to `<bundle>/log` (a pipe that containerd and
 * CRI-O read) and to the sandbox's own log file. Neither can block: a full or unread pipe loses records, counted.
 */
import fs from "node:fs";
import pino from "pino";
import type { Log, LogFields } from "../base/log.ts";
import { rotatingFile } from "../persist/rotating-file.ts";

const { O_NONBLOCK, O_RDWR } = fs.constants;

/** Bytes of the sandbox's log file, which is kept twice. */
const FILE_LIMIT_BYTES = 1 << 20;

/** A sink of whole lines that never blocks and never throws. */
interface LineSink {
  write(line: string): void;
}

/** `path` may be a FIFO (opened read-write: a reader may come later) or absent (then nothing is written). */
function pipeSink(path: string): LineSink {
  let fd: number | undefined;
  try {
    fd = fs.openSync(path, O_RDWR | O_NONBLOCK);
  } catch {
    return { write: () => undefined };
  }
  let lost = 0;
  return {
    write(line) {
      try {
        const note =
          lost > 0 ? `{"level":"warn","msg":"${lost} log records were lost: nobody read the pipe"}\n` : "";
        fs.writeSync(fd, note + line);
        lost = 0;
      } catch {
        lost++;
      }
    },
  };
}

export interface ShimLog extends Log {
  /** From now on records go to this file too. */
  addFile(path: string): void;
}

/** @param pipePath `<bundle>/log` */
export function createShimLog(pipePath: string, debug: boolean, fields: LogFields): ShimLog {
  const sinks: LineSink[] = [pipeSink(pipePath)];
  const destination = {
    write(line: string) {
      for (const sink of sinks) sink.write(line);
    },
  };
  const root = pino(
    {
      level: debug ? "debug" : "info",
      base: fields,
      formatters: { level: (label) => ({ level: label }) },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    destination,
  );
  return Object.assign(adapt(root), {
    addFile: (path: string) => void sinks.push(rotatingFile(path, FILE_LIMIT_BYTES)),
  });
}

function adapt(logger: pino.Logger): Log {
  return {
    error: (fields, message) => logger.error(fields, message),
    warn: (fields, message) => logger.warn(fields, message),
    info: (fields, message) => logger.info(fields, message),
    debug: (fields, message) => logger.debug(fields, message),
    trace: (fields, message) => logger.trace(fields, message),
    child: (fields) => adapt(logger.child(fields)),
  };
}
