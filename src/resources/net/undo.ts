/**
 * Undoes a wiring from its journal record alone. Every action is idempotent and first makes sure that what it removes
 * is ours: an interface by index, name and kind, a filter by where it leads, a qdisc by being empty.
 */
import { describeError, errnoOf, SandboxError } from "../../base/errors.ts";
import { type NetnsOperation, runInNetns } from "../../native/net.ts";
import {
  deleteFilter,
  deleteIngressQdisc,
  deleteLink,
  deleteTable,
  dumpFilters,
  dumpLinks,
  dumpQdiscs,
  Errno,
  ETH_P_ALL,
  type Filter,
  type Link,
  NetlinkError,
  NetlinkProtocol,
  type NetlinkReply,
  NetlinkSocket,
  NFPROTO_NETDEV,
  nftBatch,
  parseBpf,
  parseFilter,
  parseLink,
  parseQdisc,
  parseU32,
  type Qdisc,
  TC_CLSACT_IN,
  TC_CLSACT_OUT,
  TC_INGRESS_HANDLE,
  TC_INGRESS_PARENT,
} from "../../netlink/index.ts";
import { type Netns, openNetns } from "./netns.ts";
import { loadRequest, type NetUndoRecord, type UndoAction } from "./plan.ts";

/** What "is gone already" looks like. */
const GONE = new Set<number>([
  Errno.ENOENT,
  Errno.ENODEV,
  Errno.ENXIO,
  Errno.ESRCH,
  Errno.EINVAL,
  Errno.EADDRNOTAVAIL,
]);
/** What "is back already" looks like. */
const BACK = new Set<number>([Errno.EEXIST, Errno.ENODEV]);

/**
 * Undoes what `record` (a NetUndoRecord out of a journal) says. A namespace that is gone has taken everything with it.
 * @throws SandboxError ERR_INVALID_ARGUMENT for something that is no such record; ERR_HOST naming what remained.
 */
export async function undoPodNetwork(record: unknown): Promise<void> {
  const checked = asRecord(record);
  const netns = reopen(checked);
  if (netns === undefined) return;
  try {
    await undoInNetns(checked.undo, netns);
  } finally {
    netns.close();
  }
}

function asRecord(value: unknown): NetUndoRecord {
  const record = value as Partial<NetUndoRecord> | null | undefined;
  if (record?.version !== 1 || !Array.isArray(record.undo) || typeof record.netns?.path !== "string") {
    throw new SandboxError("ERR_INVALID_ARGUMENT", "the journal's network record is of an unknown form");
  }
  return record as NetUndoRecord;
}

/** The namespace of the record, or undefined when its path leads nowhere or elsewhere. */
function reopen(record: NetUndoRecord): Netns | undefined {
  let netns: Netns;
  try {
    netns = openNetns(record.netns.path);
  } catch (error) {
    const gone = error instanceof SandboxError && error.code !== "ERR_HOST";
    if (gone || errnoOf(error) === "ENOTDIR") return undefined;
    throw error;
  }
  if (netns.device === record.netns.device && netns.inode === record.netns.inode) return netns;
  netns.close();
  return undefined;
}

/** The same with the namespace at hand, for a living owner. */
export async function undoInNetns(actions: readonly UndoAction[], netns: Netns): Promise<void> {
  const socket = await NetlinkSocket.open(netns.fd, NetlinkProtocol.Route);
  const failures: string[] = [];
  try {
    const links = (await socket.dump(dumpLinks())).map((message) => parseLink(message.payload));
    const context: Context = { socket, netnsFd: netns.fd, links };
    for (const action of [...actions].reverse()) {
      try {
        await undoAction(action, context);
      } catch (error) {
        failures.push(`${action.undo}: ${describeError(error)}`);
      }
    }
  } finally {
    socket.close();
  }
  if (failures.length > 0) {
    throw new SandboxError("ERR_HOST", `${netns.path} was not cleaned: ${failures.join("; ")}`);
  }
}

interface Context {
  readonly socket: NetlinkSocket;
  readonly netnsFd: number;
  readonly links: readonly Link[];
}

async function undoAction(action: UndoAction, context: Context): Promise<void> {
  switch (action.undo) {
    case "filter":
      return undoFilter(action, context);
    case "qdisc":
      return undoQdisc(action, context);
    case "link": {
      const { index, name, kind } = action;
      const ours = context.links.some(
        (link) => link.index === index && link.name === name && link.kind === kind,
      );
      if (ours) await tolerate(GONE, () => context.socket.request(deleteLink(index, name)));
      return;
    }
    case "nft-table":
      return undoTable(action.name, context);
    case "sysctl":
      return undoSysctl(action.key, action.value, context);
    case "requests":
      if (!context.links.some((link) => link.index === action.index)) return;
      for (const saved of action.requests)
        await tolerate(BACK, () => context.socket.request(loadRequest(saved)));
      return;
  }
}

async function tolerate(errnos: ReadonlySet<number>, run: () => Promise<unknown>): Promise<void> {
  try {
    await run();
  } catch (error) {
    if (!(error instanceof NetlinkError) || !errnos.has(-error.errno)) throw error;
  }
}

/** Filters of one attachment point; none where there is no qdisc or no interface. */
async function filtersOf(socket: NetlinkSocket, index: number, parent: number): Promise<Filter[]> {
  try {
    return (await socket.dump(dumpFilters(index, parent))).map((message) => parseFilter(message.payload));
  } catch (error) {
    if (error instanceof NetlinkError && GONE.has(-error.errno)) return [];
    throw error;
  }
}

async function undoFilter(action: Extract<UndoAction, { undo: "filter" }>, context: Context): Promise<void> {
  const { index, parent, preference, kind, target } = action;
  const filters = await filtersOf(context.socket, index, parent);
  const ours = filters.some((filter) => filter.preference === preference && leadsTo(filter, kind, target));
  if (!ours) return;
  // Without a handle: all that is at this preference, where nobody else is.
  const address = { index, parent, handle: 0, preference, protocol: ETH_P_ALL };
  await tolerate(GONE, () => context.socket.request(deleteFilter(address, kind, `interface ${index}`)));
}

function leadsTo(filter: Filter, kind: string, target: number | string): boolean {
  if (filter.kind !== kind) return false;
  if (kind === "bpf") return parseBpf(filter.options).name === target;
  // A redirect whose interface is gone shows index 0; the preference is ours then.
  return parseU32(filter.options).actions.some(
    ({ mirred }) => mirred !== undefined && (mirred.index === target || mirred.index === 0),
  );
}

async function undoQdisc(action: Extract<UndoAction, { undo: "qdisc" }>, context: Context): Promise<void> {
  const { socket } = context;
  const qdiscs = (await socket.dump(dumpQdiscs())).map((message): Qdisc => parseQdisc(message.payload));
  const present = qdiscs.find((qdisc) => qdisc.index === action.index && qdisc.parent === TC_INGRESS_PARENT);
  if (present?.kind !== action.kind) return;
  const parents = action.kind === "clsact" ? [TC_CLSACT_IN, TC_CLSACT_OUT] : [TC_INGRESS_HANDLE];
  for (const parent of parents) {
    if ((await filtersOf(socket, action.index, parent)).length > 0) return; // somebody else uses it by now
  }
  await tolerate(GONE, () => socket.request(deleteIngressQdisc(action.index, `interface ${action.index}`)));
}

async function undoTable(name: string, context: Context): Promise<void> {
  let replies: readonly NetlinkReply[];
  try {
    replies = await nftBatch(context.netnsFd, [deleteTable(NFPROTO_NETDEV, name)]);
  } catch {
    return; // no nfnetlink: there was never a table
  }
  const [reply] = replies;
  const never: readonly number[] = [Errno.EOPNOTSUPP, Errno.EAFNOSUPPORT, Errno.EINVAL];
  if (reply !== undefined && reply.errno !== 0 && !GONE.has(reply.errno) && !never.includes(reply.errno)) {
    throw new NetlinkError(`removing the nftables table ${name}`, reply.errno, reply.kernelText);
  }
}

async function undoSysctl(key: string, value: string, context: Context): Promise<void> {
  const write: NetnsOperation = { do: "write-file", path: `/proc/sys/net/${key}`, data: Buffer.from(value) };
  const [result] = await runInNetns(context.netnsFd, [write]);
  if (result !== undefined && result.errno !== 0 && result.errno !== Errno.ENOENT) {
    throw new NetlinkError(`setting ${key} back to ${value}`, result.errno);
  }
}
