/** Pausing and resuming the containers that a task stands for: all of them or none. */
import { SandboxError } from "../base/errors.ts";
import type { Container } from "../runtime/container.ts";

/** The guest's calls, as this needs them. */
export interface FreezerCalls {
  pauseContainer(request: { readonly containerId: string }): Promise<unknown>;
  resumeContainer(request: { readonly containerId: string }): Promise<unknown>;
}

/**
 * Pauses (or resumes) those of `containers` that run (or are paused). When one fails, those before it are put back, and
 * whatever cannot be is named in the error; `Container.paused` says what is so in any case.
 * @throws SandboxError with the code of the failure
 */
export async function setPaused(
  containers: readonly Container[],
  paused: boolean,
  calls: FreezerCalls,
): Promise<void> {
  const changed: Container[] = [];
  for (const container of containers) {
    if (container.paused === paused || (paused && container.init.state !== "running")) continue;
    try {
      await setOne(container, paused, calls);
      changed.push(container);
    } catch (error) {
      // One that has ended meanwhile has nothing left to pause.
      if (container.init.hasEnded) continue;
      // Without an answer nobody knows what has become of it.
      if (codeOf(error) === "ERR_DEADLINE") changed.push(container);
      const stuck = await putBack(changed, paused, calls);
      throw failure(container, paused, stuck, error);
    }
  }
}

const codeOf = (error: unknown) => (error instanceof SandboxError ? error.code : "ERR_INTERNAL");

async function setOne(container: Container, paused: boolean, calls: FreezerCalls): Promise<void> {
  const request = { containerId: container.id };
  await (paused ? calls.pauseContainer(request) : calls.resumeContainer(request));
  container.paused = paused;
}

/** @returns those that could not be put back. */
async function putBack(
  changed: readonly Container[],
  paused: boolean,
  calls: FreezerCalls,
): Promise<readonly Container[]> {
  const results = await Promise.allSettled(changed.map((container) => setOne(container, !paused, calls)));
  return changed.filter((_, index) => results[index]?.status === "rejected");
}

function failure(
  { id }: Container,
  paused: boolean,
  stuck: readonly Container[],
  cause: unknown,
): SandboxError {
  const [verb, other] = paused ? ["pause", "resumed"] : ["resume", "paused"];
  const left = stuck.map((container) => container.id).join(", ");
  const rest = left === "" ? "" : `; ${left} could not be ${other} again`;
  return new SandboxError(codeOf(cause), `cannot ${verb} container ${id}${rest}`, { cause });
}
