/** The agent once it runs: what it listens on, what it tells the host, and what happens when the host is gone. */
import * as sys from "sys";
import { describeError } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import { logField } from "../../src/base/log-fields.ts";
import { VERSION } from "../../src/base/version.ts";
import { TtrpcServer } from "../../src/ttrpc/index.ts";
import { agentService } from "./agent-service.ts";
import { type LogLevel, logLevels } from "./boot/command-line.ts";
import type { ModuleLoader } from "./boot/modules.ts";
import { ConsoleServer } from "./console/console-server.ts";
import { KEEP_MS, TOOLS_PATH, Tools } from "./console/tools.ts";
import { createContainerRuntime } from "./container/index.ts";
import type { ContainerRuntime, ProcessExit } from "./container-runtime.ts";
import type { Endpoints } from "./endpoints.ts";
import type { EventLoop } from "./event-loop.ts";
import type { FailPoint } from "./failpoint.ts";
import { readText } from "./files.ts";
import { kernelRelease } from "./guest-facts.ts";
import { HostLink } from "./host-link.ts";
import { CLOCK_BOOTTIME } from "./linux.ts";
import { type LogOutput, printEntry, toJson } from "./logger.ts";
import { ForwardServer } from "./net/forward-server.ts";
import { GuestNetwork } from "./net/network.ts";
import { Reaper } from "./reaper.ts";
import { StreamServer } from "./stdio/stream-server.ts";
import { currentTraceId } from "./tracing.ts";
import type { Uevent } from "./uevent.ts";
import { Uevents } from "./uevents.ts";

/** docs/protocol.md */
const PROTOCOL_VERSION = 1;
const CONTROL_PORT = 1024;
const STDIO_PORT = 1025;
const CONSOLE_PORT = 1026;
const FORWARD_PORT = 1027;
/** What this agent can do beyond version 1 of the protocol's calls. */
const CAPABILITIES = ["stdio-reattach", "console", "forward", "create-ahead"];
/**
 * Devices without which a container starts as well, by virtio id (virtio specification, section 5): more entropy (4), giving
 * memory back (5).
 */
const LATE_DEVICES: ReadonlySet<number> = new Set([4, 5]);
/** Milliseconds from the hello until their drivers are loaded. */
const LATE_DEVICES_MS = 1_000;
/** Milliseconds between the order to shut down and the end, for the answer to leave. */
const FAREWELL_MS = 50;

export interface BootStep {
  readonly name: string;
  readonly uptimeUs: bigint;
}

export interface AgentInit {
  readonly loop: EventLoop;
  readonly log: Log;
  readonly logOutput: LogOutput;
  readonly endpoints: Endpoints;
  /** The port to dial for the hello. */
  readonly hostPort: () => number;
  /** That blocks until the host tells it: all else is made before. */
  readonly waits: boolean;
  /** Modules of the image; undefined when this is not the guest's init. */
  readonly modules: ModuleLoader | undefined;
  readonly failPoint?: FailPoint | undefined;
  /** Ends the guest (or the process, in tests). */
  readonly powerOff: () => void;
  /** Named steps of the boot so far, with the uptime in microseconds. */
  readonly steps: BootStep[];
}

export const uptimeUs = (): number => sys.clockUs(CLOCK_BOOTTIME);

/** Listens, says hello, and serves until the host is gone. Rejects only when the agent cannot be reached at all. */
export async function runAgent(init: AgentInit): Promise<void> {
  const { loop, log, endpoints, failPoint } = init;
  // The answer takes a while, in which all else is made.
  const dial = () => endpoints.dialHost(init.hostPort());
  const dialling = init.waits ? undefined : dial();
  let link: HostLink | undefined;
  let markReady: () => void = () => undefined;
  const ready = new Promise<void>((resolve) => {
    markReady = resolve;
  });
  const runtime = createContainerRuntime({
    loop,
    log: log.child({ component: "container" }),
    onExit: ({ pid: _, ...value }: ProcessExit) => link?.send({ case: "processExited", value }),
    onOutOfMemory: (containerId: string) => link?.send({ case: "outOfMemory", value: { containerId } }),
    demandModule: (name: string) => Promise.resolve(void init.modules?.loadOnDemand(name)),
  });
  const reaper = new Reaper(loop, (pid, status) => runtime.reaped(pid, status));
  const uevents = new Uevents(loop);
  const network = new GuestNetwork({ uevents, log });
  // A guest that is saved is ready for its first container as far as none is known, and hears of devices only from then on.
  if (init.waits) prepare(runtime, network, log);
  else uevents.listen();
  const streams = new StreamServer({
    log,
    stdio: (container, exec) => {
      failPoint?.("stdio");
      return runtime.stdio(container, exec);
    },
  });
  const service = agentService({
    log,
    runtime,
    network,
    uevents,
    ready,
    uptimeUs,
    streamCount: () => streams.count,
    failPoint,
    shutDown: () => loop.setTimer(FAREWELL_MS, init.powerOff),
    report: (span) => link?.send({ case: "span", value: span }),
  });
  const server = new TtrpcServer({ services: [service], log });
  endpoints.listen(CONTROL_PORT, (stream) => void server.serve(stream));
  endpoints.listen(STDIO_PORT, (stream) => void streams.serve(stream));
  const keepMs = Number(sys.getenv("CAISSON_TOOLS_KEEP_MS") ?? KEEP_MS);
  const tools = new Tools(reaper, sys.getenv("CAISSON_TOOLS_DIR") ?? TOOLS_PATH, keepMs);
  const consoles = new ConsoleServer({ loop, log, reaper, runtime, tools });
  endpoints.listen(CONSOLE_PORT, (stream) => {
    failPoint?.("console");
    void consoles.serve(stream);
  });
  const forwards = new ForwardServer({ loop, log: log.child({ component: "forward" }) });
  endpoints.listen(FORWARD_PORT, (stream) => void forwards.serve(stream));

  const connecting = dialling ?? dial();
  uevents.listen();
  link = new HostLink(await connecting);
  const connected = link;
  const greeting = greet(init, connected);
  // While the hello is under way. A guest that was saved has them.
  if (!init.waits) init.modules?.loadForDevices(LATE_DEVICES);
  await greeting;
  markReady();
  loop.setTimer(LATE_DEVICES_MS, () => init.modules?.loadForDevices());
  uevents.subscribe((event) => {
    // The first device of its kind may be plugged in long after the boot.
    if (event.action === "add" && event.subsystem === "virtio") init.modules?.loadForDevices();
    announceDevice(event, connected);
  });
  const reason = await connected.lost;
  log.warn({ err: describeError(reason) }, "the host is gone; ending");
  init.powerOff();
}

/** What fails is tried again, and told, by whom needs it. */
function prepare(runtime: ContainerRuntime, network: GuestNetwork, log: Log): void {
  try {
    runtime.prepare();
    network.prepare();
  } catch (error) {
    log.warn({ err: describeError(error) }, "the guest could not be prepared for containers");
  }
}

/** Says hello and takes over the host's clock and log level. */
async function greet(init: AgentInit, link: HostLink): Promise<void> {
  init.steps.push({ name: "connected", uptimeUs: BigInt(uptimeUs()) });
  init.failPoint?.("hello");
  const answer = await link.hello({
    protocolVersion: PROTOCOL_VERSION,
    agentVersion: VERSION,
    capabilities: CAPABILITIES,
    kernelRelease: kernelRelease(),
    bootSteps: init.steps,
  });
  if (init.modules !== undefined && answer.timeUnixNano > 0n) sys.setRealtimeNs(answer.timeUnixNano);
  init.logOutput.level =
    logLevels.find((level): level is LogLevel => level === answer.logLevel) ?? init.logOutput.level;
  init.logOutput.sink = (entry) => {
    // What the console gets too survives the connection; errors are rare enough.
    if (entry.level === "error") printEntry(entry);
    const { level, message, fields } = entry;
    const own = fields[logField.trace];
    const traceId = typeof own === "string" ? own : currentTraceId();
    link.send({
      case: "log",
      value: { level, message, fieldsJson: toJson(fields), timeUnixNano: sys.realtimeNs(), traceId },
    });
  };
}

/** Tells the host of interfaces and disks that appear. */
function announceDevice({ action, subsystem, devpath }: Uevent, link: HostLink): void {
  if (action !== "add" || (subsystem !== "net" && subsystem !== "block")) return;
  const name = devpath.slice(devpath.lastIndexOf("/") + 1);
  const mac = subsystem === "net" ? (readText(`/sys/class/net/${name}/address`)?.trim() ?? "") : "";
  link.send({ case: "device", value: { subsystem, name, mac } });
}
