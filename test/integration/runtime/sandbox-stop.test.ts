/** The end of a sandbox that comes at a bad moment, on real mounts; its machine never starts. Needs root. */
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import { createMounter, detachMount, mount } from "../../../src/native/index.ts";
import type { MountSyscalls } from "../../../src/resources/share/shared-tree.ts";
import type { MachineDeps } from "../../../src/runtime/boot.ts";
import { type GuestContainer, type NewContainer, Sandbox } from "../../../src/runtime/sandbox.ts";
import { Workspace } from "../../../src/runtime/workspace.ts";
import type { TaskEvents } from "../../../src/shim/task-events.ts";
import { type PreparedSandbox, Tasks } from "../../../src/shim/tasks.ts";

/** A private tmpfs: what a failed test leaves mounted goes away with it. */
let scratch = "";
before(async () => {
  scratch = fs.mkdtempSync(path.join(os.tmpdir(), "caisson-stop-"));
  await mount("tmpfs", scratch, "tmpfs", ["size=16m", "mode=0700"]);
  await mount("none", scratch, "none", ["private"]);
});
after(async () => {
  await detachMount(scratch);
  fs.rmdirSync(scratch);
});

/** Where something waits until it is let through. */
function gate() {
  let open: () => void = () => undefined;
  let reach: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const reached = new Promise<void>((resolve) => {
    reach = resolve;
  });
  const pass = async () => {
    reach();
    await opened;
  };
  return { open, reached, pass };
}

/** The real calls, with a wait after what they do to `target`. */
function slowly(
  dir: string,
  call: "mount" | "detach",
  target: string,
  pass: () => Promise<void>,
): MountSyscalls {
  const real = createMounter({ beneath: dir });
  return {
    mount: async (source, where, fstype, options) => {
      await real.mount(source, where, fstype, options);
      if (call === "mount" && where === path.join(dir, target)) await pass();
    },
    detach: async (where) => {
      await real.detach(where);
      if (call === "detach" && where === path.join(dir, target)) await pass();
    },
  };
}

const size = { cpus: 1, memoryMiB: 256 };

function makeSandbox(dir: string, mounts: MountSyscalls): Sandbox {
  const fails = async (): Promise<never> => {
    throw new SandboxError("ERR_HOST", "no machine here");
  };
  const deps: MachineDeps = {
    mounts,
    startSharedFs: fails,
    openVsock: fails,
    reserveNetwork: () => ({ [Symbol.asyncDispose]: async () => undefined }),
    attachNetwork: fails,
    startAhead: () => ({ started: Promise.resolve(), [Symbol.asyncDispose]: async () => undefined }),
    launch: fails,
    launchFailed: () => undefined,
  };
  const setup = { sandboxId: "s", hostname: "", shmSizeBytes: 0, sysctls: {} };
  return new Sandbox(deps, {
    namespace: "test",
    workspace: { dir, facts: {} },
    boot: {
      guest: { ...setup, sharePidNamespace: false },
      guestLogLevel: "info",
      helloLimitMs: 1000,
      log: silentLog,
    },
    size: {
      boot: size,
      limits: { baseCpus: 1, baseMemoryMiB: 256, maxCpus: 1, maxMemoryMiB: 256 },
    },
    createLimitMs: 1000,
    single: false,
    observer: { ended() {}, exited() {}, outOfMemory() {}, lost() {} },
    log: silentLog,
  });
}

const stdio = { stdin: "", stdout: "", stderr: "", terminal: false };

function container(id: string): NewContainer {
  const source = path.join(scratch, `root-${id}`);
  fs.mkdirSync(source, { recursive: true });
  const guest: GuestContainer = {
    spec: { ociVersion: "1.0.2" },
    hostCpu: undefined,
    binds: [],
    memory: [],
    blocks: [],
    rootfs: [{ type: "bind", source, options: ["rbind"] }],
  };
  return { id, bundle: scratch, stdio, guest };
}

test("a run directory goes although the kernel has not finished with a mount that is gone", async () => {
  const dir = path.join(scratch, "syncing");
  const { open, reached, pass } = gate();
  const workspace = await Workspace.create(slowly(dir, "detach", "shared/c/rootfs", pass), {
    dir,
    facts: {},
  });
  const { undo } = await workspace.tree.addContainer("c", container("c").guest?.rootfs ?? []);
  // An overlay's umount(2) writes out the whole file system below it.
  const undone = undo.disposeAsync();
  await reached;
  await workspace[Symbol.asyncDispose]();
  assert.equal(fs.existsSync(dir), false);
  open();
  await undone;
});

test("a run directory stays while something is mounted in it", async () => {
  const dir = path.join(scratch, "busy");
  const refuse = createMounter({ beneath: dir });
  const mounts = { ...refuse, detach: async () => Promise.reject(new Error("refused")) };
  const workspace = await Workspace.create(mounts, { dir, facts: {} });
  await assert.rejects(async () => await workspace[Symbol.asyncDispose](), /still mounted below it/);
  assert.equal(fs.existsSync(workspace.paths.journal), true);
});

test("a sandbox that is stopped while its place is made leaves nothing and takes no container", async () => {
  const dir = path.join(scratch, "early");
  const { open, reached, pass } = gate();
  const sandbox = makeSandbox(dir, slowly(dir, "mount", "shared", pass));
  const started = sandbox.start();
  await reached;
  const stopped = sandbox.stop();
  open();
  await assert.rejects(started, (error: SandboxError) => error.code === "ERR_CANCELED");
  await stopped;
  assert.equal(fs.existsSync(dir), false);
  await assert.rejects(sandbox.createContainer(container("late")), /being stopped/);
});

test("the shim's end waits for a sandbox that is being discarded already", async () => {
  const dir = path.join(scratch, "discarded");
  const { open, reached, pass } = gate();
  const sandbox = makeSandbox(dir, slowly(dir, "detach", "shared", pass));
  const bundle = path.join(scratch, "bundle");
  fs.mkdirSync(bundle);
  fs.writeFileSync(path.join(bundle, "config.json"), '{"ociVersion":"1.0.2"}');
  const tasks = new Tasks({
    log: silentLog,
    events: {} as TaskEvents,
    openSandbox: async () =>
      ({ sandbox, plan: (task: { id: string }) => container(task.id) }) as unknown as PreparedSandbox,
  });
  const task = { id: "c", bundle, rootfs: [], stdio, configPath: "" };
  const created = tasks.create(task, new AbortController().signal);
  await reached;
  let ended = false;
  const stopped = tasks.stop().then(() => {
    ended = true;
  });
  await new Promise(setImmediate);
  assert.equal(ended, false);
  open();
  await Promise.all([assert.rejects(created, /no machine here/), stopped]);
  assert.equal(fs.existsSync(dir), false);
});

test("a shim that is ended while a sandbox is prepared starts none", async () => {
  const dir = path.join(scratch, "prepared");
  const { open, reached, pass } = gate();
  const sandbox = makeSandbox(dir, createMounter({ beneath: dir }));
  const tasks = new Tasks({
    log: silentLog,
    events: {} as TaskEvents,
    openSandbox: async () => {
      await pass();
      return { sandbox } as unknown as PreparedSandbox;
    },
  });
  const held = tasks.hold("s", { bundle: scratch, configPath: "", spec: { ociVersion: "1.0.2" } });
  await reached;
  await tasks.stop();
  open();
  await assert.rejects(held, (error: SandboxError) => error.code === "ERR_CANCELED");
  assert.equal(sandbox.state, "created");
  assert.equal(fs.existsSync(dir), false);
});
