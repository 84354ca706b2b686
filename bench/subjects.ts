/** The same container on our shim and on runc's, driven through the Task API without containerd or ctr in between. */
import { constants, openSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { type Any, AnySchema } from "@bufbuild/protobuf/wkt";
import { type AsyncReleasable, UndoStack } from "../src/base/undo.ts";
import type { Task } from "../src/gen/containerd/task/v2/task_pb.ts";
import type { Client } from "../src/ttrpc/index.ts";
import { busyboxRootfs, busyboxSpec, DirectShim, type DirectShimInit } from "../test/harness/direct-shim.ts";
import { runOk } from "../test/harness/run.ts";
import type { ConfigOverrides } from "../test/harness/shim-config.ts";
import { createWorld, type World } from "../test/harness/world.ts";

export const RUNC_SHIM = "/usr/bin/containerd-shim-runc-v2";

export interface Subject {
  /** "caisson", "runc", or what sets a further one apart. */
  readonly name: string;
  readonly id: string;
  readonly task: Client<typeof Task>;
}

/** Our shim with one virtiofsd for all: the guest reads a program anew each time it is opened. */
export const ONE_VIRTIOFSD = {
  name: "caisson with one virtiofsd",
  config: { "hypervisor.qemu.virtio_fs_root_cache": "auto" },
} as const;

/** Runs `body` with both subjects, ours by `config`, and with `further` ones of ours; their containers sleep. */
export async function withSubjects(
  body: (subjects: readonly Subject[], world: World) => Promise<void>,
  further: readonly { readonly name: string; readonly config: ConfigOverrides }[] = [],
  config: ConfigOverrides = {},
): Promise<void> {
  await using world = await createWorld();
  await using undo = new UndoStack();
  const subject = async (name: string, init: Pick<DirectShimInit, "program" | "config">) =>
    undo.use(name, await start(world, name, init));
  const subjects = [await subject("caisson", { config }), await subject("runc", { program: RUNC_SHIM })];
  for (const { name, ...other } of further) subjects.push(await subject(name, other));
  await body(subjects, world);
}

async function start(
  world: World,
  name: string,
  init: Pick<DirectShimInit, "program" | "config">,
): Promise<Subject & AsyncReleasable> {
  const id = name.replace(/\W+/g, "-");
  const spec = busyboxSpec(world, id, ["sleep", "100000"]);
  const shim = await DirectShim.start({ world, id, spec, ...init });
  const task = await shim.task();
  await task.create({ id, bundle: shim.bundle, rootfs: [await busyboxRootfs(world)] });
  await task.start({ id });
  return { name, id, task, [Symbol.asyncDispose]: () => shim[Symbol.asyncDispose]() };
}

export const processSpec = (args: readonly string[]): Any =>
  create(AnySchema, {
    typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process",
    value: Buffer.from(JSON.stringify({ args, cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 } })),
  });

/** A named pipe in `world`, open at our end too, so that neither side waits for the other. */
export class Pipe implements Disposable {
  readonly path: string;
  readonly #socket: net.Socket;

  private constructor(path: string, fd: number, direction: "read" | "write") {
    this.path = path;
    this.#socket = new net.Socket({ fd, readable: direction === "read", writable: direction === "write" });
    this.#socket.on("error", () => undefined);
  }

  static async make(world: World, name: string, direction: "read" | "write"): Promise<Pipe> {
    const path = join(world.dir, name);
    await runOk(["mkfifo", path]);
    return new Pipe(path, openSync(path, constants.O_RDWR | constants.O_NONBLOCK), direction);
  }

  /** Resolves when `count` bytes have come. */
  read(count: number): Promise<void> {
    const all = new Promise<void>((resolve, reject) => {
      let seen = 0;
      const settle = (act: () => void) => {
        this.#socket.off("data", take).off("close", closed).pause();
        act();
      };
      const take = (chunk: Buffer) => {
        seen += chunk.length;
        if (seen >= count) settle(resolve);
      };
      const closed = () => settle(() => reject(new Error(`the pipe ended after ${seen} of ${count} bytes`)));
      this.#socket.on("data", take).on("close", closed).resume();
    });
    // Whoever fails before awaiting it shall say why itself.
    all.catch(() => undefined);
    return all;
  }

  write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) =>
      this.#socket.write(bytes, (error) => (error ? reject(error) : resolve())),
    );
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}
