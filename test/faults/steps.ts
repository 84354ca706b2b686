/** The steps of a container's life at which faults are injected, and what must be true after a fault in each. */
import type { FailPoint, NamedPoint } from "../../src/base/failpoint.ts";
import { acquires, type Way } from "./acquires.ts";

/**
 * Where in its life the container is; it says what containerd must show after a fault.
 * `create`: the call fails. `run`: the start fails, or the container ends as killed. `exec`, `stdio`, `idle`: the
 * container ends as killed, or lives on where the fault spares it. `teardown`: its own exit status stands.
 * `acquire`: the call fails, or an optional part is done without.
 */
export type Phase = "create" | "run" | "exec" | "stdio" | "idle" | "teardown" | "acquire";

export interface Step {
  /** Unique; the fail point's name where that is passed once in the container's life. */
  readonly name: string;
  readonly phase: Phase;
  /** Absent for `idle`. */
  readonly point?: FailPoint;
  /** Which processes of the sandbox exist at the step. */
  readonly has: {
    readonly virtiofsd?: boolean;
    readonly vsock?: boolean;
    readonly qemu?: boolean;
    readonly agent?: boolean;
  };
  /** The passage of the point that counts, from 1; the first when absent. */
  readonly passage?: number;
  /** How the container must be run to get there; as any when absent. */
  readonly way?: Way;
  /** Seconds that the container runs, where it must not end before its start is answered; 0 when absent. */
  readonly lives?: number;
  /** Passed by `start` and not by the server. */
  readonly inStart?: boolean;
}

const none = {};
const helpers = { virtiofsd: true, vsock: true };
const machine = { ...helpers, qemu: true };
const all = { ...machine, agent: true };

const at = (phase: Phase, has: Step["has"], ...points: NamedPoint[]): Step[] =>
  points.map((point) => ({ name: point, phase, point, has }));

/** In the order of a container's life. */
export const steps: readonly Step[] = [
  { name: "start.bound", phase: "create", point: "start.bound", has: none, inStart: true },
  { name: "start.spawned", phase: "create", point: "start.spawned", has: none, inStart: true },
  ...at("create", none, "server.listening", "workspace.made", "cgroup.journalled", "cgroup.entered"),
  ...at("create", none, "mount.journalled", "workspace.shared"),
  ...at("create", { virtiofsd: true }, "virtiofsd.spawned"),
  {
    name: "virtiofsd.spawned #2",
    phase: "create",
    point: "virtiofsd.spawned",
    passage: 2,
    has: { virtiofsd: true },
  },
  ...at("create", { vsock: true }, "vsock.spawned", "vsock.ready"),
  ...at("create", none, "network.journalled", "network.wired"),
  ...at("create", none, "container.directory", "container.mounted"),
  // From a template it is the first of the processes.
  ...at("create", { qemu: true }, "qemu.spawned"),
  ...at("create", machine, "boot.launched"),
  ...at("create", all, "boot.hello", "boot.sentinel", "boot.ready", "container.created"),
  ...at("run", all, "start.attached", "start.started"),
  { name: "idle", phase: "idle", has: all },
  ...at("exec", all, "exec.created"),
  { name: "exec: start.attached", phase: "exec", point: "start.attached", has: all },
  { name: "exec: start.started", phase: "exec", point: "start.started", has: all },
  { name: "exec: delete.drained", phase: "exec", point: "delete.drained", has: all },
  ...at("stdio", all, "stdio.output", "stdio.input"),
  { name: "exit.heard", phase: "teardown", point: "exit.heard", has: all, lives: 1 },
  ...at("teardown", all, "delete.drained", "delete.removed", "release.container", "stop.machine"),
  ...at("teardown", none, "stop.workspace", "shutdown.stopped"),
];

/** After each acquire. */
export const acquireSteps: readonly Step[] = acquires.flatMap(({ name, way, times = 1 }) =>
  Array.from({ length: times }, (_, index) => ({
    name: `acquire: ${name}${times === 1 ? "" : ` #${index + 1}`}`,
    phase: "acquire" as const,
    point: `acquire.${name}` as const,
    passage: index + 1,
    way,
    has: none,
  })),
);

/** The fail points that only `delete` and `gc` pass. */
export const recoverySteps: readonly NamedPoint[] = ["recover.begin", "recover.killed", "recover.undone"];
