/** Which sandbox a container belongs to, as containerd's CRI plugin and CRI-O say it in annotations. */

/** `single`: neither CRI; a container that is its own sandbox (`ctr run`, nerdctl). */
export type ContainerRole =
  | { readonly role: "single" }
  | { readonly role: "sandbox" }
  | { readonly role: "container"; readonly sandboxId: string };

/** Annotation keys: containerd `pkg/cri/annotations`, CRI-O `pkg/annotations`. */
const TYPE_KEYS = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"] as const;
const SANDBOX_ID_KEYS = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"] as const;

const first = (annotations: Readonly<Record<string, string>>, keys: readonly string[]): string | undefined =>
  keys.map((key) => annotations[key]).find((value) => value !== undefined && value !== "");

/** The role that `annotations` give a container. */
export function containerRole(annotations: Readonly<Record<string, string>> = {}): ContainerRole {
  const type = first(annotations, TYPE_KEYS);
  if (type === "sandbox") return { role: "sandbox" };
  const sandboxId = first(annotations, SANDBOX_ID_KEYS);
  if (type === "container" && sandboxId !== undefined) return { role: "container", sandboxId };
  return { role: "single" };
}

/** The pod as Kubernetes names it. */
export interface PodIdentity {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
}

/** containerd `pkg/cri/annotations`; CRI-O `pkg/annotations`; the kubelet's own labels, which CRI-O passes on. */
const POD_NAME_KEYS = [
  "io.kubernetes.cri.sandbox-name",
  "io.kubernetes.cri-o.KubeName",
  "io.kubernetes.pod.name",
] as const;
const POD_NAMESPACE_KEYS = [
  "io.kubernetes.cri.sandbox-namespace",
  "io.kubernetes.cri-o.Namespace",
  "io.kubernetes.pod.namespace",
] as const;
const POD_UID_KEYS = ["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"] as const;

/** The pod that a container's annotations name; undefined without Kubernetes. */
export function podIdentity(annotations: Readonly<Record<string, string>> = {}): PodIdentity | undefined {
  const name = first(annotations, POD_NAME_KEYS);
  if (name === undefined) return undefined;
  return {
    name,
    namespace: first(annotations, POD_NAMESPACE_KEYS) ?? "",
    uid: first(annotations, POD_UID_KEYS) ?? "",
  };
}
