/**
 * The shim's logger: pino, one JSON line a record, written synchronously to `<bundle>/log` (a pipe that containerd and
 * CRI-O read) and to the sandbox's own log file. Neither can block: a full or unread pipe loses records, counted.
 */
import fs from "node:fs";
import pino from "pino";
import type { Log, LogFields } from "../base/log.ts";
import { logField } from "../base/log-fields.ts";
import { currentTrace } from "../base/trace.ts";
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
  /** From now on debug records are kept: all of them, or only those that came from the guest's agent. */
  showDebug(of: "everything" | "agent"): void;
}

/** Whose debug records are kept; shared by a log and its children. */
interface Verbosity {
  everything: boolean;
  agent: boolean;
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
      level: "debug",
      base: fields,
      formatters: { level: (label) => ({ level: label }) },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    destination,
  );
  const verbosity: Verbosity = { everything: debug, agent: false };
  return Object.assign(adapt(root, verbosity), {
    addFile: (path: string) => void sinks.push(rotatingFile(path, FILE_LIMIT_BYTES)),
    showDebug: (of: keyof Verbosity) => {
      verbosity[of] = true;
    },
  });
}

/** Field values by which the agent's records are known (src/agent/guest-agent.ts). */
const ofAgent = (fields: LogFields) => fields[logField.component] === "agent";

function adapt(logger: pino.Logger, verbosity: Verbosity): Log {
  return {
    error: (fields, message) => logger.error(ofRequest(fields), message),
    warn: (fields, message) => logger.warn(ofRequest(fields), message),
    info: (fields, message) => logger.info(ofRequest(fields), message),
    debug(fields, message) {
      if (verbosity.everything || (verbosity.agent && ofAgent(fields)))
        logger.debug(ofRequest(fields), message);
    },
    trace: () => undefined,
    child: (fields) => adapt(logger.child(fields), verbosity),
  };
}

/** `fields` with the ids of the request that is being served, when it is traced and the record names no other. */
function ofRequest(fields: LogFields): LogFields {
  const span = currentTrace();
  if (span === undefined) return fields;
  return { [logField.trace]: span.traceId, [logField.span]: span.spanId, ...fields };
}
