/** A pod's network that is wired: its NICs, and NICs that come and go later. */
import { create } from "@bufbuild/protobuf";
import { SandboxError } from "../../base/errors.ts";
import { once } from "../../base/once.ts";
import { type ApplyNetworkRequest, ApplyNetworkRequestSchema } from "../../gen/caisson/agent/v1/agent_pb.ts";
import { closeFd } from "../../native/fd.ts";
import { type Link, NetlinkProtocol, NetlinkSocket, setLink } from "../../netlink/index.ts";
import { guestNetwork, guestRules } from "./guest-network.ts";
import type { Netns } from "./netns.ts";
import { type NetworkModel, type UndoAction, undoOfNic, type WiringModel } from "./plan.ts";
import { type PodState, readPodState } from "./pod-state.ts";
import { undoInNetns } from "./undo.ts";
import { type AttachOptions, type Wired, wireLinks } from "./wiring.ts";

export interface PodNic {
  /** Name in the namespace, and in the guest. */
  readonly ifname: string;
  readonly tapName: string;
  readonly mac: string;
  readonly mtu: number;
  /** One a queue. Owned by the PodNetwork. */
  readonly tapFds: readonly number[];
  /** One a queue, or none. */
  readonly vhostFds: readonly number[];
  readonly queues: number;
}

interface Attached {
  readonly nic: PodNic;
  /** Index of the pod's interface. */
  readonly index: number;
  readonly undo: readonly UndoAction[];
  /** Notes that `undo` was done. */
  readonly undone: () => void;
  /** What the guest was told about it when it was wired. */
  readonly guest: () => ApplyNetworkRequest;
  open: boolean;
}

/** A wired pod network. Release with detach(), after QEMU has ended. */
export class PodNetwork {
  readonly #options: AttachOptions;
  readonly #netns: Netns;
  readonly #model: NetworkModel;
  readonly #attached: Attached[] = [];
  #detached: Promise<void> | undefined;
  readonly #guest: () => ApplyNetworkRequest;

  /** Owns `netns` from here on. `wired` undefined: no NIC. */
  constructor(options: AttachOptions, netns: Netns, wired: Wired | undefined) {
    this.#options = options;
    this.#netns = netns;
    this.#model = wired?.plan.model ?? options.model;
    if (wired !== undefined) this.#adopt(wired);
    this.#guest = once(() =>
      wired === undefined ? create(ApplyNetworkRequestSchema) : guestNetwork(wired.state, wired.links),
    );
  }

  /** For the agent, at boot. Worked out when it is asked for: QEMU need not wait for it. */
  get guest(): ApplyNetworkRequest {
    return this.#guest();
  }

  /** What was wired in the end: not the wanted one where the kernel refused that. */
  get model(): NetworkModel {
    return this.#model;
  }

  get nics(): readonly PodNic[] {
    return this.#attached.map(({ nic }) => nic);
  }

  get netnsFd(): number {
    return this.#netns.fd;
  }

  /** Whether the interface `index` of the namespace is wired. */
  isWired(index: number): boolean {
    return this.#attached.some((entry) => entry.index === index);
  }

  /** Wired NICs whose interface is gone from the namespace. */
  orphans(state: PodState): PodNic[] {
    return this.#attached
      .filter((entry) => !state.links.some((link) => link.index === entry.index))
      .map(({ nic }) => nic);
  }

  /** What the guest should be told now, given the state of the namespace. */
  guestFor(state: PodState): ApplyNetworkRequest {
    // A macvtap's interface lost its addresses when it was wired: what it had then is the guest's.
    const links = state.links.filter((link) => this.isWired(link.index));
    if (this.#model !== "macvtap") return guestNetwork(state, links);
    return joined(
      this.#attached.map(({ guest }) => guest()),
      guestRules(state, links),
    );
  }

  /**
   * Wires one more interface, which CNI added after the boot.
   * @throws SandboxError as attachPodNetwork() does.
   */
  async attachInterface(link: Link, signal: AbortSignal): Promise<PodNic> {
    if (this.#detached !== undefined) throw new SandboxError("ERR_STATE", "the pod's network was detached");
    const { state, socket } = await readPodState(this.#netns.fd);
    try {
      const context = { options: this.#options, netns: this.#netns, socket, signal };
      const choose = (now: PodState) => now.links.filter((entry) => entry.index === link.index);
      const wired = await wireLinks(context, state, this.#model as WiringModel, choose);
      const [nic] = wired === undefined ? [] : this.#adopt(wired);
      if (nic === undefined)
        throw new SandboxError("ERR_NOT_FOUND", `${link.name} is gone from the namespace`);
      return nic;
    } finally {
      socket.close();
    }
  }

  /** Gives each tap the MTU that its interface has in `state`. A redirect checks no MTU, so they must not differ. */
  async followMtu(state: PodState): Promise<void> {
    const late = this.#attached.flatMap(({ nic, index }) => {
      const link = state.links.find((entry) => entry.index === index);
      const tap = state.links.find((entry) => entry.name === nic.tapName);
      return link === undefined || tap === undefined || tap.mtu === link.mtu ? [] : [{ link, tap }];
    });
    if (late.length === 0) return;
    const socket = await NetlinkSocket.open(this.#netns.fd, NetlinkProtocol.Route);
    try {
      for (const { link, tap } of late) await socket.request(setLink(tap.index, { mtu: link.mtu }, tap.name));
    } finally {
      socket.close();
    }
  }

  /** Takes the wiring of one NIC back, after QEMU has let it go. */
  async detachInterface(nic: PodNic): Promise<void> {
    const at = this.#attached.findIndex((entry) => entry.nic === nic);
    const entry = this.#attached[at];
    if (entry === undefined) return;
    close(entry);
    await undoInNetns(entry.undo, this.#netns);
    entry.undone();
    this.#attached.splice(at, 1);
  }

  /** Closes our copies of the descriptors once QEMU has inherited them. Idempotent. */
  closeFds(): void {
    for (const entry of this.#attached) close(entry);
  }

  /** Puts the namespace back as CNI made it. Idempotent. @throws SandboxError ERR_HOST naming what remained. */
  detach(): Promise<void> {
    this.#detached ??= this.#undoAll();
    return this.#detached;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.detach();
  }

  async #undoAll(): Promise<void> {
    try {
      const undo = this.#attached.flatMap((entry) => entry.undo);
      if (undo.length > 0) await undoInNetns(undo, this.#netns);
    } finally {
      this.closeFds();
      this.#netns.close();
    }
  }

  #adopt(wired: Wired): PodNic[] {
    // One record of the journal for all of them.
    let left = wired.plan.nics.length;
    const undone = () => {
      if (--left === 0) wired.undone?.();
    };
    return wired.plan.nics.map(({ ifname, tap, mac, mtu }) => {
      const link = wired.links.find((entry) => entry.name === ifname) as Link; // the plan was made from these
      const nic: PodNic = {
        ifname,
        tapName: tap.name,
        mac,
        mtu,
        tapFds: wired.tapFds.get(tap.name) ?? [],
        vhostFds: wired.vhostFds.get(tap.name) ?? [],
        queues: tap.queues,
      };
      const undo = undoOfNic(wired.plan, tap.name);
      this.#attached.push({
        nic,
        index: link.index,
        undo,
        undone,
        guest: once(() => guestNetwork(wired.state, [link])),
        open: true,
      });
      return nic;
    });
  }
}

function close(entry: Attached): void {
  if (!entry.open) return;
  entry.open = false;
  for (const fd of [...entry.nic.tapFds, ...entry.nic.vhostFds]) closeFd(fd);
}

function joined(requests: readonly ApplyNetworkRequest[], rules: Uint8Array[]): ApplyNetworkRequest {
  return create(ApplyNetworkRequestSchema, {
    interfaces: requests.flatMap((request) => request.interfaces),
    routes: requests.flatMap((request) => request.routes),
    neighbours: requests.flatMap((request) => request.neighbours),
    rules,
  });
}
