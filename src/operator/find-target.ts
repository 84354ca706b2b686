/** Which sandbox a person means: by sandbox id, container id, pod name, or the unique beginning of one. */
import { SandboxError } from "../base/errors.ts";
import { nearest } from "../cli/index.ts";
import { fact } from "./sandbox-record.ts";
import { podOf, type SandboxView, stateOf, viewSandboxes } from "./sandbox-view.ts";

interface Name {
  readonly text: string;
  readonly view: SandboxView;
}

/** @throws SandboxError ERR_NOT_FOUND naming what there is, ERR_INVALID_ARGUMENT when several fit; ERR_PERMISSION */
export async function findTarget(word: string): Promise<SandboxView> {
  return chooseTarget(word, await viewSandboxes());
}

/** Pure. Exact names win over beginnings. */
export function chooseTarget(word: string, views: readonly SandboxView[]): SandboxView {
  const names = views.flatMap(namesOf);
  const exact = unique(names.filter(({ text }) => text === word));
  const found = exact.length > 0 ? exact : unique(names.filter(({ text }) => text.startsWith(word)));
  const [first, second] = found;
  if (word !== "" && first !== undefined && second === undefined) return first;
  if (word !== "" && second !== undefined) {
    const which = found.map((view) => `${view.record.id} (${podOf(view) ?? stateOf(view)})`).join(", ");
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `"${word}" fits several sandboxes: ${which}; give more of the id`,
    );
  }
  throw new SandboxError(
    "ERR_NOT_FOUND",
    `there is no sandbox, container or pod "${word}"; ${remedy(word, names)}`,
  );
}

function remedy(word: string, names: readonly Name[]): string {
  if (names.length === 0)
    return (
      "no sandbox of Caisson is on this host (is the pod on this node, and does it use the runtime caisson? " +
      "Why one has ended is in containerd's log: journalctl -u containerd)"
    );
  const near = nearest(
    word,
    names.map(({ text }) => text),
  );
  return near === undefined ? "shim list shows what there is" : `did you mean ${near}? shim list shows all`;
}

/** What a sandbox goes by. */
function namesOf(view: SandboxView): Name[] {
  const { record, status } = view;
  const pod = podOf(view);
  const texts = [
    record.id,
    ...(status?.containers ?? []).map(({ id }) => id),
    ...(pod === undefined ? [] : [pod, fact(record, "pod") ?? pod]),
  ];
  return [...new Set(texts)].map((text) => ({ text, view }));
}

const unique = (names: readonly Name[]): SandboxView[] => [...new Set(names.map(({ view }) => view))];

/** The container of `view` that `word` names, by id or the unique beginning of one. @throws as chooseTarget */
export function chooseContainer(word: string, view: SandboxView): string {
  const ids = (view.status?.containers ?? []).map(({ id }) => id);
  const found = ids.includes(word) ? [word] : ids.filter((id) => word !== "" && id.startsWith(word));
  if (found.length === 1 && found[0] !== undefined) return found[0];
  const known = ids.length === 0 ? "it has none" : `it has ${ids.join(", ")}`;
  throw new SandboxError(
    found.length === 0 ? "ERR_NOT_FOUND" : "ERR_INVALID_ARGUMENT",
    found.length === 0
      ? `sandbox ${view.record.id} has no container "${word}"; ${known}`
      : `"${word}" fits several containers: ${found.join(", ")}; give more of the id`,
  );
}
