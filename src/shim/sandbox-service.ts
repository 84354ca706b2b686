/** containerd.runtime.sandbox.v1.Sandbox: translates messages to PodSandbox and back (containerd 2, `sandboxer = "shim"`). */
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { CreateSandboxRequest, Sandbox } from "../gen/containerd/runtime/sandbox/v1/sandbox_pb.ts";
import type { ServiceHandlers } from "../ttrpc/index.ts";
import { checkIdentifier } from "./arguments.ts";
import { packMetrics } from "./metrics.ts";
import type { NewPod, PodSandbox, PodStatus } from "./pod-sandbox.ts";
import { podStats } from "./pod-stats.ts";
import type { Tasks } from "./tasks.ts";

export interface SandboxServiceInit {
  readonly pod: PodSandbox;
  readonly tasks: Tasks;
  /** Of the runtime options that containerd gave to `start`; empty for the default search. */
  readonly configPath: string;
  /** Ends the shim. Must not wait for the answer to be sent. */
  readonly onShutdown: () => Promise<void>;
}

/** Names of runtime.v1.PodSandboxState, which CRI reads here; a sandbox that does not run yet is not ready. */
const stateNames: Record<PodStatus["state"], string> = {
  created: "SANDBOX_NOTREADY",
  ready: "SANDBOX_READY",
  stopped: "SANDBOX_NOTREADY",
};

export function sandboxHandlers(init: SandboxServiceInit): ServiceHandlers<typeof Sandbox> {
  const { pod, tasks, onShutdown } = init;
  return {
    createSandbox: async (request) => {
      await pod.create(await newPod(request, init.configPath));
      return {};
    },
    startSandbox: async ({ sandboxId }) => {
      const { pid, createdAt } = await pod.start(sandboxId);
      return { pid, ...(createdAt && { createdAt: timestampFromDate(createdAt) }) };
    },
    platform: ({ sandboxId }) => {
      pod.status(sandboxId);
      return { platform: { os: "linux", architecture: "amd64" } };
    },
    stopSandbox: async ({ sandboxId }) => {
      await pod.stop(sandboxId);
      return {};
    },
    waitSandbox: async ({ sandboxId }) => {
      const { status, exitedAt } = await pod.wait(sandboxId);
      return { exitStatus: status, exitedAt: timestampFromDate(exitedAt) };
    },
    sandboxStatus: ({ sandboxId, verbose }) => {
      const { state, pid, createdAt, exitedAt } = pod.status(sandboxId);
      return {
        sandboxId,
        pid,
        state: stateNames[state],
        ...(verbose && { info: { containers: pod.containerIds(sandboxId).join(" ") } }),
        ...(createdAt && { createdAt: timestampFromDate(createdAt) }),
        ...(exitedAt && { exitedAt: timestampFromDate(exitedAt) }),
      };
    },
    pingSandbox: async ({ sandboxId }) => {
      await pod.ping(sandboxId);
      return {};
    },
    shutdownSandbox: async () => {
      // Also for a sandbox that could not be created: it is how containerd gets rid of the shim.
      await onShutdown();
      return {};
    },
    sandboxMetrics: async ({ sandboxId }) => {
      const ids = pod.containerIds(sandboxId);
      const stats = await Promise.all(ids.map((id) => tasks.stats(id)));
      const data = await packMetrics(podStats(stats), tasks.statsFormat);
      return { metrics: { id: sandboxId, timestamp: timestampFromDate(new Date()), data } };
    },
  };
}

async function newPod(request: CreateSandboxRequest, configPath: string): Promise<NewPod> {
  const { podConfig, podSpec, writePodFiles } = await import("./pod-config.ts");
  const { sandboxId, bundlePath, netnsPath, annotations } = request;
  const id = checkIdentifier("sandbox id", sandboxId);
  const config = podConfig(request.options);
  const spec = podSpec({ id, config, netnsPath, annotations });
  return {
    id,
    bundle: bundlePath,
    configPath,
    spec,
    podMounts: writePodFiles(bundlePath, config),
  };
}
