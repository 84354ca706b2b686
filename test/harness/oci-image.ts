/**
 * Builds container images without a registry: an OCI image layout (image-spec, image-layout.md) in one tar archive, with
 * one uncompressed layer, as `ctr image import` takes it.
 */
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { type TarEntry, tarArchive } from "./tar.ts";

export interface ImageInit {
  /** Full reference, "docker.io/library/busybox:test". */
  readonly name: string;
  readonly entries: readonly TarEntry[];
  readonly env?: readonly string[];
  readonly command?: readonly string[];
  readonly entrypoint?: readonly string[];
  readonly user?: string;
}

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** The image as the bytes of an archive. */
export function imageArchive(init: ImageInit): Buffer {
  const blobs = new Map<string, Uint8Array>();
  const add = (mediaType: string, bytes: Uint8Array): Descriptor => {
    const hex = sha256(bytes);
    blobs.set(hex, bytes);
    return { mediaType, digest: `sha256:${hex}`, size: bytes.length };
  };
  const json = (value: unknown) => Buffer.from(JSON.stringify(value));
  const layer = add("application/vnd.oci.image.layer.v1.tar", tarArchive(init.entries));
  const config = add(
    "application/vnd.oci.image.config.v1+json",
    json({
      architecture: "amd64",
      os: "linux",
      config: {
        Env: init.env ?? ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"],
        Cmd: init.command ?? ["/bin/sh"],
        ...(init.entrypoint === undefined ? {} : { Entrypoint: init.entrypoint }),
        ...(init.user === undefined ? {} : { User: init.user }),
      },
      rootfs: { type: "layers", diff_ids: [layer.digest] },
    }),
  );
  const manifestType = "application/vnd.oci.image.manifest.v1+json";
  const manifest = add(
    manifestType,
    json({ schemaVersion: 2, mediaType: manifestType, config, layers: [layer] }),
  );
  const index = {
    schemaVersion: 2,
    manifests: [{ ...manifest, annotations: { "io.containerd.image.name": init.name } }],
  };
  return tarArchive([
    { path: "oci-layout", mode: 0o644, content: json({ imageLayoutVersion: "1.0.0" }) },
    { path: "index.json", mode: 0o644, content: json(index) },
    { path: "blobs", mode: 0o755 },
    { path: "blobs/sha256", mode: 0o755 },
    ...[...blobs].map(([hex, content]) => ({ path: `blobs/sha256/${hex}`, mode: 0o644, content })),
  ]);
}

/** Writes the image to `path`. */
export function writeImage(path: string, init: ImageInit): void {
  writeFileSync(path, imageArchive(init));
}

const directories = ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "usr/bin", "var"];

/** A small root file system around the static busybox at `busybox`: every applet a link in /bin. */
export function busyboxEntries(busybox: string, applets: readonly string[]): TarEntry[] {
  const text = (path: string, value: string): TarEntry => ({
    path,
    mode: 0o644,
    content: Buffer.from(value),
  });
  return [
    ...directories.map((path) => ({ path, mode: 0o755 })),
    { path: "tmp", mode: 0o1777 },
    { path: "bin/busybox", mode: 0o755, content: readFileSync(busybox) },
    ...applets
      .filter((name) => name !== "busybox")
      .map((name) => ({ path: `bin/${name}`, mode: 0o777, linkTo: "busybox" })),
    text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home:/bin/sh\n"),
    text("etc/group", "root:x:0:\nguest:x:1000:\nextra:x:2000:guest\n"),
  ];
}
