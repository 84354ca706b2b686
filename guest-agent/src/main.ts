/**
 * Entry point of the guest agent. As /init (PID 1) it sets the guest up first; with `--listen-unix DIR` it runs as a
 * plain Linux process that touches nothing until it is asked to, for tests.
 */
import "./web-globals.ts";

import * as sys from "sys";
import { describeError } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import { type BootStep, runAgent, uptimeUs } from "./agent.ts";
import { parseCommandLine } from "./boot/command-line.ts";
import { clearFreeMemory, shortenFreeLists } from "./boot/free-memory.ts";
import { ModuleLoader } from "./boot/modules.ts";
import { mountAll } from "./boot/mounts.ts";
import { awaitOrders, podDevices, reseed } from "./boot/template.ts";
import { unixEndpoints, vsockEndpoints } from "./endpoints.ts";
import { EventLoop } from "./event-loop.ts";
import { armFailPoint } from "./failpoint.ts";
import { readText, writeKernelFile } from "./files.ts";
import { forgetCpuTime } from "./guest-facts.ts";
import { createLog, type LogOutput, printEntry } from "./logger.ts";
import { powerOff } from "./power.ts";
import { trackRejections } from "./rejections.ts";
import { installTimers } from "./timers.ts";

/** PR_SET_CHILD_SUBREAPER of linux/prctl.h. */
const PR_SET_CHILD_SUBREAPER = 36;
const EX_USAGE = 64;

const logOutput: LogOutput = { level: "warn", sink: printEntry };
const log = createLog(logOutput);

function report(error: unknown): void {
  const stack = error instanceof Error ? error.stack : undefined;
  log.error({ err: describeError(error), stack }, "unexpected error in the agent");
}

function start(): void {
  const loop = new EventLoop(report);
  installTimers(loop);
  trackRejections(report);
  sys.setTurn(() => loop.turn());
  const [, option, directory] = sys.argv();
  if (option === "--listen-unix" && directory !== undefined) runAsProcess(loop, directory);
  else if (sys.getpid() === 1) runAsInit(loop);
  else usage();
}

function usage(): never {
  sys.write(
    2,
    sys.encodeUtf8("usage: agent --listen-unix DIR (otherwise this program is a guest's /init)\n"),
  );
  sys.exit(EX_USAGE);
}

function runAsProcess(loop: EventLoop, directory: string): void {
  sys.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  const run = runAgent({
    loop,
    log,
    logOutput,
    endpoints: unixEndpoints(loop, directory),
    hostPort: () => 0,
    waits: false,
    modules: undefined,
    powerOff: () => sys.exit(0),
    steps: [begun()],
  });
  run.catch((error: unknown) => {
    report(error);
    sys.exit(1);
  });
}

function runAsInit(loop: EventLoop): void {
  mountAll(log);
  const options = parseCommandLine(readText("/proc/cmdline") ?? "");
  logOutput.level = options.logLevel;
  protectSelf(log);
  shortenFreeLists(log);
  const modules = new ModuleLoader(log);
  if (options.template) modules.loadForTemplate();
  else modules.loadForBoot();
  const steps = [begun(), { name: "modules", uptimeUs: BigInt(uptimeUs()) }];
  const run = runAgent({
    loop,
    log,
    logOutput,
    endpoints: vsockEndpoints(loop),
    hostPort: () => (options.template ? goOn(steps) : options.hostPort),
    waits: options.template,
    modules,
    failPoint: armFailPoint(options.failPoint),
    powerOff: () => powerOff(loop),
    steps,
  });
  run.catch((error: unknown) => {
    // No host will ever talk to this guest; the message is on the console, whose tail the host reports.
    report(error);
    powerOff(loop);
  });
}

/** Is saved, and goes on in another machine. @returns the port of its host */
function goOn(steps: BootStep[]): number {
  const devices = podDevices();
  clearFreeMemory();
  forgetCpuTime();
  const { hostPort, seed } = awaitOrders();
  steps.splice(0, steps.length, { name: "restored", uptimeUs: BigInt(uptimeUs()) });
  reseed(seed);
  devices.find();
  steps.push({ name: "devices", uptimeUs: BigInt(uptimeUs()) });
  return hostPort;
}

/** The kernel's own part of the boot, which ends with the execution of this program. */
function begun(): BootStep {
  return { name: "init", uptimeUs: BigInt(sys.startedUs()) };
}

/** The guest's OOM killer must never pick the agent, nor what it clones execs with. */
function protectSelf(to: Log): void {
  try {
    for (const pid of ["self", sys.spawnerPid()]) writeKernelFile(`/proc/${pid}/oom_score_adj`, "-1000");
  } catch (error) {
    to.warn({ err: describeError(error) }, "the agent is not protected from the OOM killer");
  }
}

start();
