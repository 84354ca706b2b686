/** The pod's network in the guest: interfaces, addresses, routes, neighbours (ApplyNetwork, CreateSandbox). */
import { create } from "@bufbuild/protobuf";
import { SandboxError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import {
  type ApplyNetworkRequest,
  ApplyNetworkRequestSchema,
} from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { dumpLinks, type Link, parseLink } from "../../../src/netlink/link.ts";
import { callLog } from "../tracing.ts";
import type { Uevents } from "../uevents.ts";
import { missingInterfaces, planNetwork } from "./plan.ts";
import { planRemovals } from "./removals.ts";
import { RtnetlinkSocket } from "./rtnetlink.ts";

/** Milliseconds that a hot-plugged interface may take to appear. */
const APPEAR_LIMIT_MS = 5_000;
/** Milliseconds for the carrier of an interface that was brought up; virtio-net reports it from a work queue. */
const CARRIER_LIMIT_MS = 2_000;
/** asm-generic/errno-base.h, asm-generic/errno.h: it is there already. */
const EEXIST = 17;
/** It is gone already, as ENOENT, ESRCH, ENODEV and EADDRNOTAVAIL say. */
const GONE = new Set([2, 3, 19, 99]);

export interface NetworkDeps {
  readonly uevents: Uevents;
  readonly log: Log;
}

/** Follows the requests: what an earlier one brought and the next does not have is taken away again. */
export class GuestNetwork {
  readonly #deps: NetworkDeps;
  #last: ApplyNetworkRequest | undefined;
  #hasLoopback = false;
  /** One request after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(deps: NetworkDeps) {
    this.#deps = deps;
  }

  /** Starts the loopback interface, as the first request would. @throws SandboxError */
  prepare(): void {
    const socket = new RtnetlinkSocket();
    try {
      socket.execute(planNetwork(create(ApplyNetworkRequestSchema), listLinks(socket)));
      this.#hasLoopback = true;
    } finally {
      socket.close();
    }
  }

  /**
   * Applies the request, which says everything that the network shall have; what exists already is left as it is, so
   * that a request may be repeated.
   * @throws SandboxError ERR_NOT_FOUND for an interface that does not appear in time, ERR_INVALID_ARGUMENT for what the
   *   kernel refuses
   */
  apply(request: ApplyNetworkRequest): Promise<void> {
    const log = callLog(this.#deps.log);
    const applied = this.#turn.then(() => this.#apply(request, log));
    this.#turn = applied.catch(() => undefined);
    return applied;
  }

  async #apply(request: ApplyNetworkRequest, log: Log): Promise<void> {
    if (this.#hasLoopback && this.#last === undefined && isEmpty(request)) return;
    const socket = new RtnetlinkSocket();
    try {
      const links = await presentLinks(socket, request, this.#deps);
      if (this.#last !== undefined) {
        socket.execute(planRemovals(this.#last, request, links), (error) => GONE.has(error.errno));
      }
      // Even if some of it is refused: what was added must be known when it is to be removed.
      this.#last = request;
      socket.execute(planNetwork(request, links), (error) => error.errno === EEXIST);
      await carriers(socket, request, { ...this.#deps, log });
    } finally {
      socket.close();
    }
  }
}

const isEmpty = ({ interfaces, routes, neighbours, rules }: ApplyNetworkRequest): boolean =>
  [interfaces, routes, neighbours, rules].every((list) => list.length === 0);

function listLinks(socket: RtnetlinkSocket): Link[] {
  return socket.dump(dumpLinks()).map((message) => parseLink(message.payload));
}

async function presentLinks(
  socket: RtnetlinkSocket,
  request: ApplyNetworkRequest,
  { uevents }: NetworkDeps,
): Promise<Link[]> {
  let links = listLinks(socket);
  const complete = () => {
    links = listLinks(socket);
    return missingInterfaces(request, links).length === 0;
  };
  if (missingInterfaces(request, links).length > 0) {
    const found = await uevents.until(
      ({ subsystem }) => subsystem === "net" && complete(),
      complete,
      APPEAR_LIMIT_MS,
    );
    if (!found) {
      const missing = missingInterfaces(request, links).join(", ");
      throw new SandboxError(
        "ERR_NOT_FOUND",
        `no interface with the MAC address ${missing} appeared in the guest`,
      );
    }
  }
  return links;
}

/** Waits until frames sent now would reach the host; a missing carrier is not an error, only slow. */
async function carriers(
  socket: RtnetlinkSocket,
  request: ApplyNetworkRequest,
  deps: NetworkDeps,
): Promise<void> {
  const wanted = new Set(request.interfaces.map(({ mac }) => mac.toLowerCase()));
  const ready = () => listLinks(socket).every((link) => link.carrier || !wanted.has(link.mac));
  if (wanted.size === 0 || ready()) return;
  if (!(await deps.uevents.untilLinkChange(ready, CARRIER_LIMIT_MS))) {
    deps.log.warn({}, "an interface of the pod still has no carrier");
  }
}
