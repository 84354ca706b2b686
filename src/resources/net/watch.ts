/**
 * Follows a pod's namespace after the boot: NICs that CNI adds or removes, and what changes about addresses, routes,
 * MTUs and static neighbours. The kernel's notifications only say that something changed; what the network is now is
 * read anew, so that a lost notification costs nothing.
 */
import { describeError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import type { ApplyNetworkRequest } from "../../gen/caisson/agent/v1/agent_pb.ts";
import { type Link, NetlinkMonitor, RouteGroup } from "../../netlink/index.ts";
import type { PodNetwork, PodNic } from "./pod-network.ts";
import { podLinks, readPodState } from "./pod-state.ts";

export interface PodNetworkHandlers {
  /** A NIC to be plugged into the machine; it is wired already. */
  nicAdded(nic: PodNic): Promise<void>;
  /** A NIC whose interface is gone, to be unplugged; its tap goes when this resolves. */
  nicRemoved(nic: PodNic): Promise<void>;
  /** The whole network as the guest should have it now; also after a NIC came or went. */
  guestChanged(guest: ApplyNetworkRequest): Promise<void>;
}

/** CNI makes several changes in a row: so long nothing must have changed before they are looked at. */
const QUIET_MS = 30;
/** But no longer than this after the first. */
const PATIENCE_MS = 500;

const GROUPS =
  RouteGroup.Link |
  RouteGroup.Neighbour |
  RouteGroup.Ipv4Address |
  RouteGroup.Ipv4Route |
  RouteGroup.Ipv4Rule |
  RouteGroup.Ipv6Address |
  RouteGroup.Ipv6Route |
  RouteGroup.Ipv6Rule;

/** An interface that could not be added is tried again so late, then after twice the time, up to a minute. */
const RETRY_MS = 2_000;
const MAX_RETRY_MS = 60_000;

interface Refusal {
  /** What the interface was like. */
  readonly identity: string;
  readonly waitMs: number;
  /** As performance.now(). */
  readonly until: number;
  readonly timer: ReturnType<typeof setTimeout>;
}

/** Watches until close(). One at a time for a PodNetwork; close it before detach(). */
export class PodNetworkWatch {
  readonly #network: PodNetwork;
  readonly #handlers: PodNetworkHandlers;
  readonly #log: Log;
  readonly #abort = new AbortController();
  #monitor: NetlinkMonitor | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #firstChange = 0;
  #working: Promise<void> = Promise.resolve();
  #told: string;
  /**
   * Interfaces that could not be added, by index. Each try makes and removes a tap, of which the kernel tells: without this it
   * would be followed by the next one, for ever.
   */
  readonly #refused = new Map<number, Refusal>();

  private constructor(network: PodNetwork, handlers: PodNetworkHandlers, log: Log) {
    this.#network = network;
    this.#handlers = handlers;
    this.#log = log;
    this.#told = JSON.stringify(network.guest);
  }

  /** Begins to watch; what changed between the wiring and now is found too. @throws NetlinkError */
  static async open(network: PodNetwork, handlers: PodNetworkHandlers, log: Log): Promise<PodNetworkWatch> {
    const watch = new PodNetworkWatch(network, handlers, log);
    watch.#monitor = await NetlinkMonitor.open(network.netnsFd, GROUPS, {
      changed: () => watch.#schedule(),
      overrun: () => watch.#schedule(),
      failed: (error) => log.error({ err: error }, "the pod's network is no longer followed"),
    });
    watch.#schedule();
    return watch;
  }

  /** Looks now, and resolves when all that had changed until this call was followed. */
  async settled(): Promise<void> {
    this.#working = this.#working.then(() => this.#look());
    await this.#working;
  }

  /** Resolves when what is under way is over; no handler is called afterwards. Idempotent. */
  async close(): Promise<void> {
    this.#abort.abort();
    this.#monitor?.close();
    clearTimeout(this.#timer);
    await this.#working;
    for (const index of this.#refused.keys()) this.#forget(index);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #schedule(): void {
    if (this.#abort.signal.aborted) return;
    const now = performance.now();
    if (this.#timer === undefined) this.#firstChange = now;
    clearTimeout(this.#timer);
    const wait = Math.max(0, Math.min(QUIET_MS, this.#firstChange + PATIENCE_MS - now));
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#working = this.#working.then(() => this.#look());
    }, wait);
    this.#timer.unref();
  }

  async #look(): Promise<void> {
    if (this.#abort.signal.aborted) return;
    try {
      await this.#follow();
    } catch (error) {
      if (this.#abort.signal.aborted) return;
      this.#log.error({ err: error }, `cannot follow the pod's network: ${describeError(error)}`);
    }
  }

  async #follow(): Promise<void> {
    const state = await this.#read();
    for (const nic of this.#network.orphans(state)) {
      await this.#handlers.nicRemoved(nic);
      await this.#network.detachInterface(nic);
      // There is a place for another now.
      for (const index of this.#refused.keys()) this.#forget(index);
    }
    const links = podLinks(state);
    for (const index of this.#refused.keys()) {
      if (!links.some((link) => link.index === index)) this.#forget(index);
    }
    for (const link of links) {
      const refusal = this.#refused.get(link.index);
      const isRefused = refusal?.identity === identity(link) && performance.now() < refusal.until;
      if (!isRefused && !this.#network.isWired(link.index)) await this.#add(link);
    }
    await this.#network.followMtu(state);
    const guest = this.#network.guestFor(state);
    const text = JSON.stringify(guest);
    if (text === this.#told) return;
    await this.#handlers.guestChanged(guest);
    this.#told = text;
  }

  /** Wires and plugs an interface. One that cannot be is told of, and left alone until it changes, a NIC goes or time passes. */
  async #add(link: Link): Promise<void> {
    this.#abort.signal.throwIfAborted();
    try {
      const nic = await this.#network.attachInterface(link, this.#abort.signal);
      try {
        await this.#handlers.nicAdded(nic);
      } catch (error) {
        await this.#network.detachInterface(nic);
        throw error;
      }
      this.#forget(link.index);
    } catch (error) {
      this.#abort.signal.throwIfAborted();
      const wait = this.#refuse(link);
      const text = `cannot add ${link.name}, next try in ${wait / 1000} s: ${describeError(error)}`;
      this.#log.error({ err: error, interface: link.name }, text);
    }
  }

  /** @returns milliseconds until the next try. */
  #refuse(link: Link): number {
    const before = this.#refused.get(link.index);
    this.#forget(link.index);
    const again = before?.identity === identity(link);
    const waitMs = again ? Math.min(before.waitMs * 2, MAX_RETRY_MS) : RETRY_MS;
    const timer = setTimeout(() => this.#schedule(), waitMs);
    timer.unref();
    this.#refused.set(link.index, {
      identity: identity(link),
      waitMs,
      until: performance.now() + waitMs,
      timer,
    });
    return waitMs;
  }

  #forget(index: number): void {
    clearTimeout(this.#refused.get(index)?.timer);
    this.#refused.delete(index);
  }

  async #read() {
    const { state, socket } = await readPodState(this.#network.netnsFd);
    socket.close();
    return state;
  }
}

/** What somebody sets about an interface, as a text. */
function identity({ name, mac, mtu }: Link): string {
  return `${name} ${mac} ${mtu}`;
}
