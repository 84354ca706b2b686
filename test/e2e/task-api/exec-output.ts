/** Runs a process in a container through the Task API alone and gives its output. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type MatrixPod, processSpec } from "./call-matrix.ts";

let count = 0;

/** @returns both streams and the exit status of `args` as an exec of the container `id`. */
export async function execOutput(pod: MatrixPod, id: string, args: readonly string[]) {
  count += 1;
  const execId = `run${count}`;
  const [stdout, stderr] = ["out", "err"].map((name) => join(pod.shim.bundle, `${execId}.${name}`));
  if (stdout === undefined || stderr === undefined) throw new Error("unreachable");
  await pod.task.exec({
    id,
    execId,
    spec: processSpec(args),
    stdout: `file://${stdout}`,
    stderr: `file://${stderr}`,
  });
  await pod.task.start({ id, execId });
  const { exitStatus } = await pod.task.wait({ id, execId });
  await pod.task.delete({ id, execId });
  return { stdout: readFileSync(stdout, "utf8"), stderr: readFileSync(stderr, "utf8"), exitStatus };
}
