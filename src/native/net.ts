/**
 * System calls inside a network namespace, and bpf(2). Bytes of messages and plans are made in src/netlink and
 * src/resources/net; nothing here knows what they mean.
 */
import { type NativeBinding, nativeAs } from "./binding.ts";

interface NetBinding {
  // netns.c
  runInNetns(netns: number, operations: readonly unknown[][]): Promise<NetnsResult[]>;
  // bpf.c
  bpfCall(command: number, attributes: Uint8Array): number;
  bpfLoad(type: number, instructions: Uint8Array, name: string, attachType: number): number;
  bpfMapUpdate(map: number, key: Uint8Array, value: Uint8Array): void;
}

function binding(): NativeBinding & NetBinding {
  return nativeAs<NetBinding>();
}

/** A descriptor, or the place in the same list of the operation that opens it. */
export type FdRef = number | { readonly of: number };

interface Common {
  /** Its failure does not end the list. */
  readonly optional?: boolean;
}

/** One system call (or open-write-close of one file). */
export type NetnsOperation = Common &
  (
    | { readonly do: "socket"; readonly family: number; readonly type: number; readonly protocol: number }
    | {
        readonly do: "setsockopt";
        readonly fd: FdRef;
        readonly level: number;
        readonly name: number;
        readonly data: Uint8Array;
      }
    | { readonly do: "bind"; readonly fd: FdRef; readonly data: Uint8Array }
    | { readonly do: "open"; readonly path: string; readonly flags: number }
    /** The argument is a structure; the result's `data` is what the kernel left in it. */
    | { readonly do: "ioctl"; readonly fd: FdRef; readonly request: number; readonly data: Uint8Array }
    /** The argument is a number. */
    | { readonly do: "ioctl-number"; readonly fd: FdRef; readonly request: number; readonly argument: number }
    | { readonly do: "write-file"; readonly path: string; readonly data: Uint8Array }
    | { readonly do: "read-file"; readonly path: string }
    /** Sends on a netlink socket and takes every answer. */
    | { readonly do: "exchange"; readonly fd: FdRef; readonly data: Uint8Array }
    /** Closes what an earlier operation opened, on the thread: the end of an nfnetlink socket may take long. */
    | { readonly do: "close"; readonly fd: { readonly of: number } }
    /** Makes a namespace; what follows in the list runs inside it. */
    | { readonly do: "unshare-net" }
  );

/** What became of one operation. */
export interface NetnsResult {
  /** 0, or a positive errno; ECANCELED (125) for one that was not tried because an earlier one failed. */
  readonly errno: number;
  /** A descriptor (CLOEXEC) that the caller closes, also when a later operation failed. */
  readonly fd?: number;
  readonly data?: Uint8Array;
  readonly datagrams?: readonly Uint8Array[];
}

/** The numbers of `enum operation` in netns.c. */
const operationNumber = {
  socket: 0,
  setsockopt: 1,
  bind: 2,
  open: 3,
  ioctl: 4,
  "ioctl-number": 5,
  "write-file": 6,
  "read-file": 7,
  exchange: 8,
  "unshare-net": 9,
  close: 10,
} as const satisfies Record<NetnsOperation["do"], number>;

/** [kind, fd, slot, a, b, c, optional, path, data], as parse_step in netns.c reads it. */
function encodeOperation(operation: NetnsOperation): unknown[] {
  const fd = "fd" in operation ? operation.fd : -1;
  const numbers = ((): number[] => {
    switch (operation.do) {
      case "socket":
        return [operation.family, operation.type, operation.protocol];
      case "setsockopt":
        return [operation.level, operation.name, 0];
      case "open":
        return [operation.flags, 0, 0];
      case "ioctl":
        return [operation.request, 0, 0];
      case "ioctl-number":
        return [operation.request, operation.argument, 0];
      default:
        return [0, 0, 0];
    }
  })();
  return [
    operationNumber[operation.do],
    typeof fd === "number" ? fd : -1,
    typeof fd === "number" ? -1 : fd.of,
    ...numbers,
    operation.optional === true ? 1 : 0,
    "path" in operation ? operation.path : null,
    "data" in operation ? operation.data : null,
  ];
}

/**
 * Runs the operations in order on a thread of its own inside the namespace `netnsFd` (undefined: the current one).
 * @returns one result for each operation, also when some failed.
 * @throws an errno error when the namespace cannot be entered.
 */
export function runInNetns(
  netnsFd: number | undefined,
  operations: readonly NetnsOperation[],
): Promise<NetnsResult[]> {
  return binding().runInNetns(netnsFd ?? -1, operations.map(encodeOperation));
}

/**
 * bpf(2) with attributes that hold no pointers; the kernel's answers are written into `attributes`.
 * @throws an errno error.
 */
export function bpfCall(command: number, attributes: Uint8Array): number {
  return binding().bpfCall(command, attributes);
}

/**
 * Loads a program.
 * @param type BPF_PROG_TYPE_*.
 * @param name at most 15 letters, digits, "_" and "."
 * @param attachType BPF_*, for the types that are checked for one place of attachment.
 * @returns a descriptor that the caller closes.
 * @throws an errno error; its property `log` is the verifier's text.
 */
export function bpfLoad(type: number, instructions: Uint8Array, name: string, attachType = 0): number {
  return binding().bpfLoad(type, instructions, name, attachType);
}

/**
 * Sets one entry of the map `fd`. Precondition: the lengths of key and value are those of the map.
 * @throws an errno error.
 */
export function bpfMapUpdate(fd: number, key: Uint8Array, value: Uint8Array): void {
  binding().bpfMapUpdate(fd, key, value);
}
