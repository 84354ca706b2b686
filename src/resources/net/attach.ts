/**
 * Joins a pod's interfaces to taps that QEMU inherits: first everything that changes nothing (reading, planning, loading
 * programs, writing messages), which may be done while the boot waits for something else, then the wiring itself.
 */
import type { NetlinkSocket } from "../../netlink/index.ts";
import { type executePlan, StepError } from "./execute.ts";
import { openNetns, refuseHostNetns } from "./netns.ts";
import { PodNetwork } from "./pod-network.ts";
import { podLinks, readPodState } from "./pod-state.ts";
import { type AttachOptions, planLinks, refuseTaken, wireLinks } from "./wiring.ts";

export type ReserveOptions = Omit<AttachOptions, "journal">;

/** A namespace that was read and whose wiring is planned; nothing in it has changed. Ends with attach() or release(). */
export interface PodReservation {
  /**
   * Wires every interface that is the pod's. What changed since the reading is met as attachPodNetwork() meets it.
   * @param execute for tests, which refuse a step with it.
   * @throws SandboxError as attachPodNetwork() does. Nothing is left behind then, and the reservation has ended.
   */
  attach(
    journal: AttachOptions["journal"],
    signal: AbortSignal,
    execute?: typeof executePlan,
  ): Promise<PodNetwork>;
  release(): void;
}

/** @throws SandboxError ERR_INVALID_ARGUMENT, ERR_NOT_FOUND, ERR_ALREADY_EXISTS as attachPodNetwork() does. */
export async function reservePodNetwork(options: ReserveOptions): Promise<PodReservation> {
  const netns = openNetns(options.netnsPath);
  let socket: NetlinkSocket | undefined;
  try {
    refuseHostNetns(netns);
    const { model } = options;
    if (model === "none") {
      const attach = async (journal: AttachOptions["journal"]) =>
        new PodNetwork({ ...options, journal }, netns, undefined);
      return { attach, release: () => netns.close() };
    }
    const read = await readPodState(netns.fd);
    socket = read.socket;
    const { state } = read;
    refuseTaken(state);
    const ready = await planLinks(options.queues, socket, state, model, podLinks).catch(programRefused);
    const release = () => {
      ready?.prepared.release();
      read.socket.close();
    };
    return {
      async attach(journal, signal, execute) {
        try {
          signal.throwIfAborted();
          const context = { options: { ...options, journal }, netns, socket: read.socket, signal };
          const whole = execute === undefined ? context : { ...context, execute };
          return new PodNetwork(
            context.options,
            netns,
            await wireLinks(whole, state, model, podLinks, ready),
          );
        } catch (error) {
          netns.close();
          throw error;
        } finally {
          release();
        }
      },
      release() {
        release();
        netns.close();
      },
    };
  } catch (error) {
    socket?.close();
    netns.close();
    throw error;
  }
}

/** The wiring meets the refusal again, and takes another model then. */
function programRefused(error: unknown): undefined {
  if (!(error instanceof StepError)) throw error;
}

/**
 * Reads the namespace, wires every interface that is the pod's and says what the guest is to be told.
 * @param execute for tests, which refuse a step with it.
 * @throws SandboxError ERR_INVALID_ARGUMENT for the host's namespace, ERR_NOT_FOUND for none, ERR_ALREADY_EXISTS when
 *   another microVM is attached to it, ERR_HOST with the step that the kernel refused. Nothing is left behind then.
 */
export async function attachPodNetwork(
  options: AttachOptions,
  signal: AbortSignal,
  execute?: typeof executePlan,
): Promise<PodNetwork> {
  signal.throwIfAborted();
  const reservation = await reservePodNetwork(options);
  return await reservation.attach(options.journal, signal, execute);
}
