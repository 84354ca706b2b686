/**
 * A pod's network namespace as CNI leaves it, a host side for it, and instruments on both ends. Everything the fixture
 * sets up is made with iproute2, so that what is tested is not tested with itself; the namespaces live as long as
 * their descriptors, so nothing is left however a test ends.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { errnoOf } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import { silentLog } from "../../../src/base/log.ts";
import { closeFd, dupFd, readFd, writeFd } from "../../../src/native/fd.ts";
import { FdWatcher } from "../../../src/native/fd-watcher.ts";
import { runInNetns } from "../../../src/native/net.ts";
import type { executePlan } from "../../../src/resources/net/execute.ts";
import {
  type AttachOptions,
  attachPodNetwork,
  type NetUndoRecord,
  type PodNetwork,
  type WiringModel,
} from "../../../src/resources/net/index.ts";
import { tapOperations, VNET_HEADER } from "../../../src/resources/net/tap-device.ts";

const run = promisify(execFile);

export const MODELS = ["tcfilter", "ebpf", "macvtap"] as const satisfies readonly WiringModel[];

export const POD_MAC = "02:ca:15:50:00:05";
export const HOST_MAC = "02:ca:15:50:00:01";
export const POD_IP = "10.88.0.5";
export const HOST_IP = "10.88.0.1";

export type PodAttachOptions = Partial<AttachOptions> & Pick<AttachOptions, "model">;

export interface Pod {
  /** A path that leads to the pod's namespace as long as the pod lives. */
  readonly netnsPath: string;
  /** Runs a shell script inside the pod's namespace. */
  inPod(script: string): Promise<string>;
  inHost(script: string): Promise<string>;
  /** The host end of the veth as a tap: what is written arrives at eth0, what eth0 sends is read. */
  readonly probe: FrameSocket;
  attach(options: PodAttachOptions, execute?: typeof executePlan): Promise<AttachedPod>;
  close(): void;
}

export interface AttachedPod {
  readonly network: PodNetwork;
  /** The first queue of the first NIC, read and written as QEMU would. */
  readonly guest: FrameSocket;
  readonly records: readonly NetUndoRecord[];
  /** Those of `records` that were not noted as undone. */
  readonly open: ReadonlySet<NetUndoRecord>;
  /** Stops reading, closes descriptors, puts the namespace back. */
  detach(): Promise<void>;
}

async function newNetns(): Promise<number> {
  const [result] = await runInNetns(undefined, [{ do: "unshare-net" }]);
  if (result?.fd === undefined) throw new Error(`cannot make a network namespace: errno ${result?.errno}`);
  return result.fd;
}

export async function shell(netnsPath: string, script: string): Promise<string> {
  const { stdout } = await run("nsenter", [`--net=${netnsPath}`, "sh", "-euc", script]);
  return stdout;
}

/** Statements that give the pod what the bridge plugin with host-local would, and a little more. */
const POD_SCRIPT = `
ip link set lo up
echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
ip link set eth0 up
ip addr add ${POD_IP}/16 brd 10.88.255.255 dev eth0
ip addr add fd00:88::5/64 dev eth0 nodad
ip route add default via ${HOST_IP}
ip -6 route add default via fd00:88::1`;

export async function makePod(options: { mtu?: number; bare?: boolean } = {}): Promise<Pod> {
  const [host, pod] = [await newNetns(), await newNetns()];
  const path = (fd: number) => `/proc/${process.pid}/fd/${fd}`;
  const [hostPath, podPath] = [path(host), path(pod)];
  const mtu = options.mtu ?? 1500;
  await shell(
    hostPath,
    `echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add h0 mtu ${mtu} address ${HOST_MAC} type veth peer name eth0 mtu ${mtu} address ${POD_MAC} netns ${podPath}
ip link set h0 up`,
  );
  if (options.bare !== true) await shell(podPath, POD_SCRIPT);
  const probe = await openProbe(host);
  await shell(
    hostPath,
    `ip link set probe0 mtu ${mtu} up
for pair in "h0 probe0" "probe0 h0"; do
  tc qdisc add dev \${pair% *} ingress
  tc filter add dev \${pair% *} parent ffff: protocol all u32 match u8 0 0 action mirred egress redirect dev \${pair#* }
done`,
  );
  let open = true;
  return {
    netnsPath: podPath,
    inPod: (script) => shell(podPath, script),
    inHost: (script) => shell(hostPath, script),
    probe,
    attach: (wanted, execute) => attach(podPath, wanted, execute),
    close() {
      if (!open) return;
      open = false;
      probe.close();
      closeFd(pod);
      closeFd(host);
    },
  };
}

async function openProbe(host: number): Promise<FrameSocket> {
  const { operations } = tapOperations({ name: "probe0", index: 77, queues: 1 }, 0);
  const results = await runInNetns(host, operations);
  const failed = results.find((result) => result.errno !== 0);
  const fd = results[0]?.fd;
  if (fd === undefined || failed !== undefined)
    throw new Error(`cannot make the probe: errno ${failed?.errno}`);
  const probe = new FrameSocket(fd);
  closeFd(fd);
  return probe;
}

async function attach(
  netnsPath: string,
  options: PodAttachOptions,
  execute: typeof executePlan | undefined,
): Promise<AttachedPod> {
  const records: NetUndoRecord[] = [];
  const open = new Set<NetUndoRecord>();
  const network = await attachPodNetwork(
    {
      netnsPath,
      queues: 1,
      vhost: "off",
      log: silentLog,
      ...options,
      journal: (record) => {
        // Through JSON, as the journal keeps it.
        const kept = JSON.parse(JSON.stringify(record)) as NetUndoRecord;
        records.push(kept);
        open.add(kept);
        return () => open.delete(kept);
      },
    },
    AbortSignal.timeout(20_000),
    execute,
  );
  const [fd] = network.nics[0]?.tapFds ?? [];
  const guest = new FrameSocket(fd ?? -1);
  return {
    network,
    guest,
    records,
    open,
    async detach() {
      guest.close();
      await network.detach();
    },
  };
}

/** One read of a tap: virtio-net header and frame. */
export interface TapFrame {
  readonly header: Buffer;
  readonly frame: Buffer;
}

/** Frames of a tap, gathered as they come. */
export class FrameSocket {
  readonly #fd: number;
  readonly #watcher: FdWatcher | undefined;
  readonly #buffer = new Uint8Array(128 * 1024);
  #frames: TapFrame[] = [];
  #wake: () => void = () => undefined;
  #closed = false;

  /** Works on a copy of the descriptor: a watcher must not see the original closed by its owner. */
  constructor(fd: number) {
    this.#fd = fd < 0 ? -1 : dupFd(fd);
    if (fd < 0) return;
    this.#watcher = new FdWatcher(this.#fd, { readable: () => this.#drain() });
    this.#watcher.watchReadable(true);
    this.#watcher.unref(); // a test that failed must not keep the process
  }

  send(frame: Uint8Array, header: Uint8Array = new Uint8Array(VNET_HEADER)): void {
    writeFd(this.#fd, Buffer.concat([header, frame]));
  }

  /** What came since the last call. */
  take(): TapFrame[] {
    const frames = this.#frames;
    this.#frames = [];
    return frames;
  }

  /** Waits until a frame for which `wanted` holds has come, and takes it; undefined after `limitMs`. */
  async next(wanted: (frame: Buffer) => boolean, limitMs: number): Promise<TapFrame | undefined> {
    const end = Date.now() + limitMs;
    for (;;) {
      const at = this.#frames.findIndex(({ frame }) => wanted(frame));
      if (at >= 0) return this.#frames.splice(at, 1)[0];
      const left = end - Date.now();
      if (left <= 0) return undefined;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  close(): void {
    if (this.#watcher === undefined || this.#closed) return;
    this.#closed = true;
    this.#watcher.close();
    closeFd(this.#fd);
  }

  /** 0 when there is nothing now, or never again because the interface is gone. */
  #read(): number {
    try {
      const length = readFd(this.#fd, this.#buffer);
      return length === "again" ? 0 : length;
    } catch (error) {
      if (errnoOf(error) !== "EBADFD") throw error;
      return 0; // the watcher ends by itself
    }
  }

  #drain(): void {
    for (;;) {
      const length = this.#read();
      if (length === 0) break;
      const copy = Buffer.from(this.#buffer.subarray(0, length));
      this.#frames.push({ header: copy.subarray(0, VNET_HEADER), frame: copy.subarray(VNET_HEADER) });
    }
    this.#wake();
  }
}

/** A log that keeps its warnings. */
export function recordingLog(): Log & { readonly warnings: string[] } {
  const warnings: string[] = [];
  const log: Log & { readonly warnings: string[] } = {
    ...silentLog,
    warnings,
    warn: (_fields, message) => void warnings.push(message),
    child: () => log,
  };
  return log;
}

/** Everything in the pod's namespace that a wiring could have changed, as iproute2 tells it, without counters. */
export async function snapshot(pod: Pod): Promise<string> {
  const text = await pod.inPod(`
ip -o link show | sed 's/ qdisc .*qlen [0-9]*//; s/ state [A-Z]*//'
ip -o addr show | sed 's/ tentative//; s/ valid_lft.*//; s/ nodad//'
ip -4 route show table all
ip -6 route show table all | grep -v 'table local' | sed 's/ pref medium//; s/ expires.*//'
ip neigh show nud permanent
tc qdisc show
for dev in $(ls /proc/sys/net/ipv4/conf | grep -v -e all -e default); do
  for side in ingress egress; do tc filter show dev $dev $side; done
  echo "$dev disable_ipv6 $(cat /proc/sys/net/ipv6/conf/$dev/disable_ipv6)"
done
nft list ruleset 2>/dev/null || true`);
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .sort()
    .join("\n");
}
