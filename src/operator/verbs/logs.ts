/** `shim logs`: everything that shim, agent, guest console, QEMU and its helpers said, in the order of time. */
import fs from "node:fs";
import { type Arguments, UsageError } from "../../cli/index.ts";
import { findTarget } from "../find-target.ts";
import type { OperatorHost } from "../host.ts";
import { formatRecord, inOrder, type LogRecord, LogTail } from "../log-lines.ts";
import type { SandboxRecord } from "../sandbox-record.ts";

const LEVELS = ["trace", "debug", "info", "warn", "error"] as const;
/** Milliseconds that records of several files may be apart before they are put in order and shown. */
const GATHER_MS = 50;

export async function runLogs(args: Arguments, host: OperatorHost): Promise<number> {
  const { record } = await findTarget(args.operands[0] ?? "");
  const wanted = filterOf(args);
  const show = (records: readonly LogRecord[]) => {
    for (const one of inOrder(records).filter(wanted))
      host.stdout(args.flag("json") ? `${one.raw}\n` : `${formatRecord(one, host.paint)}\n`);
  };
  const [shimLog, consoleLog] = [new LogTail(record.paths.shimLog), new LogTail(record.paths.consoleLog)];
  // With enable_debug the console is in the shim's log, too.
  const read = () => [
    ...shimLog.read().filter(({ component }) => component !== "console"),
    ...consoleLog.read(),
  ];
  const all = inOrder(read());
  const before = all.filter(wanted);
  if (before.length === 0 && all.length > 0) {
    const components = [...new Set(all.map(({ component }) => component))].sort().join(", ");
    host.stderr(`none of ${all.length} records matches; there are records of ${components}\n`);
  }
  const last = args.value("tail") === undefined ? before.length : args.number("tail", 0, 0, 1_000_000);
  show(last === 0 ? [] : before.slice(-last));
  if (args.flag("follow")) await follow(record, host, () => show(read()));
  return 0;
}

function filterOf(args: Arguments): (record: LogRecord) => boolean {
  const components = args.values("component");
  const level = args.choice("level", LEVELS);
  const least = level === undefined ? 0 : LEVELS.indexOf(level);
  const since = args.value("since");
  const from = since === undefined ? "" : timeOf(since);
  const names: readonly string[] = LEVELS;
  return (record) =>
    (components.length === 0 || components.includes(record.component)) &&
    Math.max(0, names.indexOf(record.level)) >= least &&
    record.time >= from;
}

/** "90s", "5m", "2h", or a time as the records have it. @throws UsageError */
function timeOf(text: string): string {
  const ago = /^(\d+)([smhd])$/.exec(text);
  const seconds = { s: 1, m: 60, h: 3600, d: 86_400 } as const;
  const ms = ago === null ? Date.parse(text) : Date.now() - Number(ago[1]) * seconds[ago[2] as "s"] * 1000;
  if (Number.isNaN(ms))
    throw new UsageError(`--since takes 90s, 5m, 2h, 1d or a time like 2026-01-31T12:00:00Z, not "${text}"`);
  return new Date(ms).toISOString();
}

/** Shows what is written from now on, until the sandbox has ended or the person has seen enough. */
async function follow(record: SandboxRecord, host: OperatorHost, show: () => void): Promise<void> {
  const { signal } = host;
  await new Promise<void>((resolve) => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const watcher = fs.watch(record.dir);
    const finish = () => {
      clearTimeout(timer);
      watcher.close();
      resolve();
    };
    const changed = () => {
      timer ??= setTimeout(() => {
        timer = undefined;
        show();
        if (fs.existsSync(record.paths.journal)) return;
        host.stderr(`sandbox ${record.id} has ended\n`);
        finish();
      }, GATHER_MS);
    };
    watcher.on("change", changed);
    watcher.on("error", finish);
    signal.addEventListener("abort", finish, { once: true });
    changed();
  });
}
