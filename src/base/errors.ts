/**
 * The one error type of the project and the catalogue of its codes.
 *
 * A code is stable and machine-readable; the message is for a person and names the thing that failed and, where one
 * exists, the remedy. Portable: bundled into the guest agent too.
 */

/** gRPC status codes as ttrpc carries them (google.rpc.Code). */
export const Status = {
  Ok: 0,
  Canceled: 1,
  Unknown: 2,
  InvalidArgument: 3,
  DeadlineExceeded: 4,
  NotFound: 5,
  AlreadyExists: 6,
  PermissionDenied: 7,
  ResourceExhausted: 8,
  FailedPrecondition: 9,
  Aborted: 10,
  OutOfRange: 11,
  Unimplemented: 12,
  Internal: 13,
  Unavailable: 14,
  DataLoss: 15,
  Unauthenticated: 16,
} as const;
export type Status = (typeof Status)[keyof typeof Status];

/** Every code of ours and the gRPC status it crosses the wire as. Held equal to docs/errors.md by a test. */
export const errorCatalogue = {
  ERR_INVALID_ARGUMENT: Status.InvalidArgument,
  ERR_CONFIG: Status.InvalidArgument,
  ERR_SPEC: Status.InvalidArgument,
  ERR_NOT_FOUND: Status.NotFound,
  ERR_PROCESS_FINISHED: Status.NotFound,
  ERR_ALREADY_EXISTS: Status.AlreadyExists,
  ERR_STATE: Status.FailedPrecondition,
  ERR_PERMISSION: Status.PermissionDenied,
  ERR_EXHAUSTED: Status.ResourceExhausted,
  ERR_FRAME_TOO_LARGE: Status.ResourceExhausted,
  ERR_UNAVAILABLE: Status.Unavailable,
  ERR_BOOT: Status.Unavailable,
  ERR_DEADLINE: Status.DeadlineExceeded,
  ERR_CANCELED: Status.Canceled,
  ERR_UNIMPLEMENTED: Status.Unimplemented,
  ERR_UNSUPPORTED: Status.Unimplemented,
  ERR_START_PROCESS: Status.InvalidArgument,
  ERR_HOST: Status.FailedPrecondition,
  ERR_PROTOCOL: Status.Internal,
  ERR_INTERNAL: Status.Internal,
} as const satisfies Record<string, Status>;
export type ErrorCode = keyof typeof errorCatalogue;

export type ErrorFields = Readonly<Record<string, string | number | boolean | undefined>>;

/** An error with a stable code, a sentence for people, a cause kept local and fields for the log. */
export class SandboxError extends Error {
  override readonly name = "SandboxError";
  readonly code: ErrorCode;
  readonly fields: ErrorFields;

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; fields?: ErrorFields } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.fields = options.fields ?? {};
  }

  /** The gRPC status this error crosses the wire as. */
  get status(): Status {
    return errorCatalogue[this.code];
  }
}

/**
 * The error that ended a block, where leaving the block failed too: `await using` then throws a SuppressedError, whose
 * `error` is the one of the disposal and whose `suppressed` is the first (ECMAScript, explicit resource management).
 * Any other error is returned as it is.
 */
export function primaryError(error: unknown): unknown {
  let current = error;
  for (let depth = 0; depth < 8 && isSuppressed(current); depth++) current = current.suppressed;
  return current;
}

/** Node 20 has no SuppressedError; the compiler's stand-in has its name. */
function isSuppressed(error: unknown): error is Error & { error: unknown; suppressed: unknown } {
  return error instanceof Error && error.name === "SuppressedError" && "suppressed" in error;
}

/** The message of an error followed by those of its causes, joined by ": ", without repeating text. */
export function describeError(error: unknown): string {
  if (isSuppressed(error)) {
    return `${describeError(error.suppressed)} (and what was begun could not be undone: ${describeError(error.error)})`;
  }
  const parts: string[] = [];
  let current: unknown = error;
  for (let depth = 0; depth < 8 && current !== undefined && current !== null; depth++) {
    const text = current instanceof Error ? current.message : String(current);
    const last = parts[parts.length - 1];
    if (text !== "" && last?.includes(text) !== true) parts.push(text);
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join(": ");
}

/** The errno name ("ENOENT") of a Node or addon error, or of one of its causes; undefined when there is none. */
export function errnoOf(error: unknown): string | undefined {
  let current = primaryError(error);
  for (let depth = 0; depth < 8 && current instanceof Error; depth++) {
    const code = (current as { code?: unknown }).code;
    if (typeof code === "string" && /^E[A-Z0-9]+$/.test(code)) return code;
    current = current.cause;
  }
  return undefined;
}

/** For the default branch of a switch over a union: a compile error when a case is missing. */
export function assertNever(value: never): never {
  throw new SandboxError("ERR_INTERNAL", `unexpected value ${JSON.stringify(value)}`);
}
