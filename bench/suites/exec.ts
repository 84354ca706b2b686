/** A further process in a running container, from the request to its end, on our shim and on runc's in turns. */
import { Collected } from "../collected.ts";
import { ONE_VIRTIOFSD, processSpec, type Subject, withSubjects } from "../subjects.ts";
import type { Suite } from "../suite.ts";

/** Processes per run and subject. */
const EXECS = 20;
const AT_ONCE = 10;

export const execSuite: Suite = {
  name: "exec",
  summary:
    "a process in a running container, one after the other and 10 at once, with and without cached root file systems, beside runc",
  async run({ runs, progress }) {
    const collected = new Collected();
    await withSubjects(
      async (subjects) => {
        for (const subject of subjects) await execOnce(subject, "warm");
        for (let run = 1; run <= runs; run++) {
          progress(`run ${run} of ${runs}`);
          for (const subject of subjects) {
            for (let i = 0; i < EXECS; i++) {
              const { started, ended } = await execOnce(subject, `r${run}e${i}`);
              collected.add(`exec and start answered, ${subject.name}`, "ms", started);
              collected.add(`exec of true to its deletion, ${subject.name}`, "ms", ended);
            }
            const begun = performance.now();
            const ids = Array.from({ length: AT_ONCE }, (_, i) => `r${run}p${i}`);
            await Promise.all(ids.map((id) => execOnce(subject, id)));
            collected.add(`${AT_ONCE} at once, ${subject.name}`, "ms", performance.now() - begun);
          }
        }
      },
      [ONE_VIRTIOFSD],
    );
    return collected.measurements();
  },
};

/** Milliseconds from the Exec request to the answer to Start, and to that to Delete. */
async function execOnce({ id, task }: Subject, execId: string): Promise<{ started: number; ended: number }> {
  const begun = performance.now();
  await task.exec({ id, execId, spec: processSpec(["true"]) });
  await task.start({ id, execId });
  const started = performance.now() - begun;
  const { exitStatus } = await task.wait({ id, execId });
  if (exitStatus !== 0) throw new Error(`true ended with ${exitStatus}`);
  await task.delete({ id, execId });
  return { started, ended: performance.now() - begun };
}
