/**
 * The two ways in which containerd talks to `start`. Up to 2.2 everything is in flags and environment, stdin holds the
 * runtime options or nothing, and the answer is the address in plain text. 2.3 adds BootstrapParams on stdin
 * (api/runtime/bootstrap/v1/bootstrap.proto) and takes a BootstrapResult as well as the plain text. There is no sign of
 * it but stdin itself, so stdin is looked at: it is BootstrapParams when it names the instance that the flags name.
 *
 * Read and written by hand: the protobuf runtime would take longer than all the rest of `start`.
 */
import { SandboxError } from "../base/errors.ts";

export interface BootstrapParams {
  readonly instanceId: string;
  readonly namespace: string;
  /** 0 is info, -4 debug, -8 trace, 4 warn, 8 error. */
  readonly logLevel: number;
  readonly containerdVersion: string;
  /** Addresses; empty when absent. */
  readonly ttrpcAddress: string;
  readonly grpcAddress: string;
  readonly containerdBinary: string;
  /** Where the shim's socket shall be; empty for the usual place. */
  readonly socketDir: string;
  /** The ConfigPath of runtime options among the extensions; empty for none. */
  readonly configPath: string;
}

/** What `start` was called with, as far as it tells which instance is meant. */
export interface CalledAs {
  readonly id: string;
  readonly namespace: string;
}

/** The parameters on stdin; undefined when it holds something else (runtime options) or nothing. */
export function bootstrapParams(stdin: Uint8Array, { id, namespace }: CalledAs): BootstrapParams | undefined {
  const fields = readFields(stdin);
  if (fields === undefined) return undefined;
  const text = (number: number) => textOf(fields, number);
  const level = fields.get(3)?.at(-1);
  const params = {
    instanceId: text(1),
    namespace: text(2),
    logLevel: typeof level === "bigint" ? Number(BigInt.asIntN(32, level)) : 0,
    containerdVersion: text(4),
    ttrpcAddress: text(5),
    grpcAddress: text(6),
    containerdBinary: text(7),
    socketDir: text(9),
    configPath:
      bytesOf(fields, 8)
        .map(extensionConfigPath)
        .find((path) => path !== "") ?? "",
  };
  // Runtime options are an Any: its fields 1 and 2 are a type URL and bytes, and there is no field 4.
  const meant = (given: string, own: string) => own !== "" && (given === own || given === "");
  const recognised =
    meant(id, params.instanceId) && meant(namespace, params.namespace) && params.containerdVersion !== "";
  return recognised ? params : undefined;
}

/** BootstrapResult { version = 1, address = 2, protocol = 3 }. Version 3: containerd.task.v3.Task, which we serve too. */
export function bootstrapResult(address: string): Uint8Array {
  const bytes = new TextEncoder().encode(address);
  if (bytes.length > 127) throw new SandboxError("ERR_INTERNAL", `the address ${address} is too long`);
  const protocol = new TextEncoder().encode("ttrpc");
  return Uint8Array.from([0x08, 3, 0x12, bytes.length, ...bytes, 0x1a, protocol.length, ...protocol]);
}

/**
 * The ConfigPath of runtime options on stdin as containerd up to 2.2 gives them: an Any of runtimeoptions.v1.Options
 * { type_url = 1, config_path = 2 }. Empty for other options and for none.
 */
export function runtimeConfigPath(stdin: Uint8Array): string {
  const any = readFields(stdin);
  if (any === undefined || !textOf(any, 1).endsWith("runtimeoptions.v1.Options")) return "";
  const options = readFields(bytesOf(any, 2).at(-1) ?? new Uint8Array());
  return options === undefined ? "" : textOf(options, 2);
}

/** Of an Extension { value = 1 }. */
function extensionConfigPath(extension: Uint8Array): string {
  const fields = readFields(extension);
  const any = fields === undefined ? undefined : bytesOf(fields, 1).at(-1);
  return any === undefined ? "" : runtimeConfigPath(any);
}

type Fields = ReadonlyMap<number, readonly (bigint | Uint8Array)[]>;

const bytesOf = (fields: Fields, number: number): Uint8Array[] =>
  (fields.get(number) ?? []).filter((value) => value instanceof Uint8Array);

const textOf = (fields: Fields, number: number): string =>
  new TextDecoder().decode(bytesOf(fields, number).at(-1));

/** The values of each field, in order; undefined when `bytes` is no protobuf message. */
function readFields(bytes: Uint8Array): Fields | undefined {
  const fields = new Map<number, (bigint | Uint8Array)[]>();
  const add = (number: number, value: bigint | Uint8Array) => {
    const values = fields.get(number);
    if (values === undefined) fields.set(number, [value]);
    else values.push(value);
  };
  let at = 0;
  const varint = (): bigint | undefined => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined) return undefined;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return undefined;
  };
  while (at < bytes.length) {
    const tag = varint();
    if (tag === undefined) return undefined;
    const number = Number(tag >> 3n);
    const value = varint(); // wire type 0: the value itself; 2: its length. The message has no other types.
    if (value === undefined || number === 0) return undefined;
    if ((tag & 7n) === 0n) {
      add(number, value);
    } else if ((tag & 7n) === 2n && value <= BigInt(bytes.length - at)) {
      add(number, bytes.subarray(at, at + Number(value)));
      at += Number(value);
    } else {
      return undefined;
    }
  }
  return fields;
}
