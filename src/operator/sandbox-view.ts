/** One sandbox as its run directory and its shim tell of it, for `list`, `stats`, `collect` and for finding one by name. */
import { SandboxError } from "../base/errors.ts";
import type { StatusResponse } from "../gen/caisson/control/v1/control_pb.ts";
import { connectControl } from "./control-client.ts";
import { proportionalByComponent } from "./processes.ts";
import { fact, findSandboxes, numberFact, type SandboxRecord } from "./sandbox-record.ts";

export interface SandboxView {
  readonly record: SandboxRecord;
  /** The shim's own word; undefined when it gave none. */
  readonly status: StatusResponse | undefined;
  /** Why it gave none. */
  readonly problem: string | undefined;
}

/** Every sandbox of this host, sorted by start. @throws SandboxError ERR_PERMISSION */
export async function viewSandboxes(): Promise<SandboxView[]> {
  const views = await Promise.all(findSandboxes().map(viewSandbox));
  return views.sort((a, b) => startedAt(a) - startedAt(b));
}

export async function viewSandbox(record: SandboxRecord): Promise<SandboxView> {
  try {
    using control = await connectControl(record);
    return { record, status: await control.calls.status({}), problem: undefined };
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    if (error instanceof SandboxError && error.code === "ERR_PERMISSION") throw error;
    return { record, status: undefined, problem: error.message };
  }
}

/** created, booting, running, stopping, stopped, failed; orphaned (its shim is gone) or unresponsive. */
export function stateOf({ record, status }: SandboxView): string {
  if (status !== undefined) return status.state;
  return record.owned ? "unresponsive" : "orphaned";
}

const SHORT_ID = 12;

/** What people need of an id that an engine made; one that a person gave stays whole. */
export const shortId = (id: string): string => (id.length <= SHORT_ID + 3 ? id : id.slice(0, SHORT_ID));

/** "namespace/name"; undefined without Kubernetes. */
export function podOf({ record }: Pick<SandboxView, "record">): string | undefined {
  const name = fact(record, "pod");
  const namespace = fact(record, "podNamespace");
  if (name === undefined) return undefined;
  return namespace === undefined ? name : `${namespace}/${name}`;
}

/** Milliseconds since the epoch; 0 when unknown. */
export function startedAt({ record, status }: SandboxView): number {
  return numberFact(record, "startedAtMs") ?? Number(status?.shim?.startedAtUnixMs ?? 0n);
}

/** Proportional set size in bytes, by component. */
export function memoryByComponent({ record }: Pick<SandboxView, "record">): Record<string, number> {
  const memory = proportionalByComponent(record.processes);
  return Object.fromEntries([...memory].map(([component, { bytes }]) => [component, bytes]));
}

export const sum = (values: Readonly<Record<string, number>>): number =>
  Object.values(values).reduce((total, value) => total + value, 0);
