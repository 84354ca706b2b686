/** Between errors of ours and the status of a ttrpc response. Portable. */
import { describeError, type ErrorCode, primaryError, SandboxError, Status } from "../base/errors.ts";
import type { StatusEnvelope } from "./envelope.ts";

/** Longest status message sent, in UTF-16 units: room for the tail of a guest's console, far below the frame limit. */
export const MAX_STATUS_MESSAGE = 16_384;

const codeOfStatus: Readonly<Record<number, ErrorCode>> = {
  [Status.Canceled]: "ERR_CANCELED",
  [Status.InvalidArgument]: "ERR_INVALID_ARGUMENT",
  [Status.DeadlineExceeded]: "ERR_DEADLINE",
  [Status.NotFound]: "ERR_NOT_FOUND",
  [Status.AlreadyExists]: "ERR_ALREADY_EXISTS",
  [Status.PermissionDenied]: "ERR_PERMISSION",
  [Status.ResourceExhausted]: "ERR_EXHAUSTED",
  [Status.FailedPrecondition]: "ERR_STATE",
  [Status.Unimplemented]: "ERR_UNIMPLEMENTED",
  [Status.Unavailable]: "ERR_UNAVAILABLE",
};

const knownStatuses: ReadonlySet<number> = new Set(Object.values(Status));

/** A call that the peer answered with an error: the peer's message, its status and the nearest code of ours. */
export class TtrpcError extends SandboxError {
  /** The status code as it came (google.rpc.Code, or a number outside it). */
  readonly remoteCode: number;

  constructor(remote: StatusEnvelope, method: string) {
    super(
      codeOfStatus[remote.code] ?? "ERR_INTERNAL",
      remote.message || `${method} failed without a message`,
      {
        fields: { method, remoteCode: remote.code },
      },
    );
    this.remoteCode = remote.code;
  }

  /** The peer's status; Internal in place of Unknown and of numbers that are not a status. */
  override get status(): Status {
    if (this.remoteCode === Status.Ok || this.remoteCode === Status.Unknown) return Status.Internal;
    return knownStatuses.has(this.remoteCode) ? (this.remoteCode as Status) : Status.Internal;
  }
}

/**
 * The status to answer a thrown value with: a SandboxError's own code, Internal for anything else; never Unknown.
 * The message is the whole chain of causes in one line of text, because the peer shows nothing else to its user.
 */
export function statusOf(error: unknown): { readonly code: Status; readonly message: string } {
  const primary = primaryError(error);
  const code = primary instanceof SandboxError ? primary.status : Status.Internal;
  const text = describeError(error) || "the call failed without a message";
  const message = text.length > MAX_STATUS_MESSAGE ? `${text.slice(0, MAX_STATUS_MESSAGE - 1)}…` : text;
  return { code, message };
}
