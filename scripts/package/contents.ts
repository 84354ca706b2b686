/** What is installed, and where. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { changelog, copyright, lintianOverrides } from "./documents.ts";
import type { BundledNode } from "./node.ts";

/** One file or link, at an absolute path of the target system. */
export type Entry = { readonly path: string } & (
  | { readonly data: Buffer; readonly mode: 0o644 | 0o755 }
  | { readonly link: string }
);

export interface ContentsInit {
  /** The Node to bring along. */
  readonly node: BundledNode | undefined;
  readonly version: string;
  /** Seconds since 1970, for the change log. */
  readonly epoch: number;
}

/** Where the programs' parts are; src/cli/program-root.ts finds them by bin, lib, native and guest. */
export const LIBRARY = "/usr/lib/caisson";

/** @param root the repository, built */
export function contents(root: string, init: ContentsInit): Entry[] {
  const read = (path: string) => readFileSync(join(root, path));
  const file = (path: string, source: string): Entry => ({ path, data: read(source), mode: 0o644 });
  const compressed = (path: string, text: Buffer | string): Entry => ({
    path: `${path}.gz`,
    data: gzipSync(text, { level: 9 }),
    mode: 0o644,
  });
  const node = init.node !== undefined ? `${LIBRARY}/bin/node` : "/usr/bin/node";
  const programs = readdirSync(join(root, "dist/bin"));
  const completions = readdirSync(join(root, "configs/completions/bash"));
  const documentation = "/usr/share/doc/caisson";
  return [
    ...programs.flatMap((name): Entry[] => [
      { path: `${LIBRARY}/bin/${name}`, data: program(join(root, "dist/bin", name), node), mode: 0o755 },
      { path: `/usr/bin/${name}`, link: `../lib/caisson/bin/${name}` },
    ]),
    // A code cache is for one build of V8: the package makes it on its host.
    ...readdirSync(join(root, "dist/lib"))
      .filter((name) => /\.c?js$/.test(name))
      .map((name): Entry => {
        const source = `dist/lib/${name}`;
        const path = `${LIBRARY}/lib/${name}`;
        // What the launcher runs names its interpreter, too.
        return read(source).subarray(0, 2).toString() === "#!"
          ? { path, data: program(join(root, source), node), mode: 0o755 }
          : file(path, source);
      }),
    file(`${LIBRARY}/lib/code-cache.mjs`, "scripts/code-cache.mjs"),
    file(`${LIBRARY}/package.json`, "dist/package.json"),
    {
      path: `${LIBRARY}/native/caisson.node`,
      data: stripped(join(root, "dist/native/caisson.node")),
      mode: 0o644,
    },
    { path: `${LIBRARY}/guest/agent`, data: read("dist/guest/agent"), mode: 0o755 },
    ...(init.node === undefined ? [] : [nodeProgram(init.node)]),
    file("/usr/share/caisson/defaults/configuration.toml", "configs/configuration.toml"),
    ...dropIns(root).map(
      (path): Entry => ({
        path: `/usr/share/caisson/${path}`,
        data: read(`configs/${path}`),
        mode: path.endsWith(".sh") ? 0o755 : 0o644,
      }),
    ),
    ...readdirSync(join(root, "configs/systemd")).map((name) =>
      file(`/usr/lib/systemd/system/${name}`, `configs/systemd/${name}`),
    ),
    ...completions.flatMap((name) => [
      file(`/usr/share/bash-completion/completions/${name}`, `configs/completions/bash/${name}`),
      file(`/usr/share/zsh/vendor-completions/_${name}`, `configs/completions/zsh/_${name}`),
      file(`/usr/share/fish/vendor_completions.d/${name}.fish`, `configs/completions/fish/${name}.fish`),
    ]),
    ...readdirSync(join(root, "docs/man")).map((name) =>
      compressed(`/usr/share/man/man${name.slice(-1)}/${name}`, read(`docs/man/${name}`)),
    ),
    file(`${documentation}/README.md`, "README.md"),
    compressed(`${documentation}/CHANGELOG.md`, read("CHANGELOG.md")),
    compressed(`${documentation}/changelog`, changelog(init.version, init.epoch)),
    { path: `${documentation}/copyright`, data: Buffer.from(copyright(root, init.node)), mode: 0o644 },
    {
      path: "/usr/share/lintian/overrides/caisson",
      data: Buffer.from(lintianOverrides(init.node !== undefined)),
      mode: 0o644,
    },
  ];
}

/** Configuration for containerd, CRI-O and Kubernetes, which their administrators copy, import or apply. */
function dropIns(root: string): string[] {
  return ["containerd", "crio", "kubernetes"].flatMap((engine) => {
    const dir = join(root, "configs", engine);
    return existsSync(dir) ? readdirSync(dir).map((name) => `${engine}/${name}`) : [];
  });
}

/** The launcher without what only a debugger needs, or a script for the Node of the package. */
function program(path: string, node: string): Buffer {
  const data = readFileSync(path);
  return data.subarray(1, 4).toString("latin1") === "ELF" ? stripped(path) : withInterpreter(data, node);
}

/** A script that names its interpreter by path: PATH of a service need not have it. */
function withInterpreter(script: Buffer, node: string): Buffer {
  const generic = "#!/usr/bin/env node\n";
  if (script.toString("latin1", 0, generic.length) !== generic)
    throw new Error(`a program does not begin with ${generic}`);
  return Buffer.concat([Buffer.from(`#!${node}\n`), script.subarray(generic.length)]);
}

/** A shared object without what only a debugger needs, which holds paths of the build. */
function stripped(path: string): Buffer {
  const scratch = mkdtempSync(join(tmpdir(), "caisson-strip-"));
  try {
    const output = join(scratch, "stripped");
    execFileSync("strip", ["--strip-unneeded", "--remove-section=.comment", "-o", output, path]);
    return readFileSync(output);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function nodeProgram({ program: path }: BundledNode): Entry {
  return { path: `${LIBRARY}/bin/node`, data: stripped(path), mode: 0o755 };
}
