export function wrapped(source: string): string;
export function loader(path: string): string;
export const CACHED: Readonly<
  Record<"containerd-shim-caisson-v2" | "shim" | "shim-server", { loader: string; flags: string[] }>
>;
export function refresh(root: string, name: keyof typeof CACHED): Promise<void>;
