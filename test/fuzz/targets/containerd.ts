/** What containerd, CRI-O and the clients behind them hand to the shim. */
import assert from "node:assert/strict";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { Task } from "../../../src/gen/containerd/task/v2/task_pb.ts";
import { PodSandboxConfigSchema } from "../../../src/gen/runtime/v1/api_pb.ts";
import { containerRole, podIdentity } from "../../../src/oci/annotations.ts";
import { withGuestDevices } from "../../../src/oci/devices.ts";
import { refuseHostNamespaces } from "../../../src/oci/host-namespaces.ts";
import { guestResources, rewriteSpec } from "../../../src/oci/rewrite.ts";
import { parseSpec } from "../../../src/oci/spec.ts";
import { machineSize } from "../../../src/runtime/sizing.ts";
import { inputPath, outputTarget } from "../../../src/runtime/stdio/target.ts";
import { checkIdentifier, parseShimArguments } from "../../../src/shim/arguments.ts";
import { bootstrapParams, runtimeConfigPath } from "../../../src/shim/bootstrap.ts";
import { podConfig, podSpec, resolvConf } from "../../../src/shim/pod-config.ts";
import { must, namedInput, shapeOf, type Target, textOf } from "../target.ts";

const LIMITS = { baseCpus: 1, maxCpus: 8, baseMemoryMiB: 256, maxMemoryMiB: 4096 };

const ociSpec: Target = {
  name: "oci-spec",
  about: "config.json: parsing, the machine's size, what the guest gets",
  format: "json",
  run(input) {
    const spec = parseSpec(textOf(input), "config.json");
    const { cpus, memoryMiB } = machineSize(spec, LIMITS);
    must(Number.isInteger(cpus) && cpus >= 1 && cpus <= LIMITS.maxCpus, `${cpus} cpus`);
    must(Number.isInteger(memoryMiB) && memoryMiB >= LIMITS.baseMemoryMiB, `${memoryMiB} MiB`);
    must(memoryMiB <= LIMITS.maxMemoryMiB, `${memoryMiB} MiB`);
    podIdentity(spec.annotations);
    const { role } = containerRole(spec.annotations);
    const {
      spec: guest,
      binds,
      memory,
      blocks,
    } = rewriteSpec(spec, {
      containerId: "c1",
      kindOf: (path) => (path.endsWith("e") ? "file" : "dir"),
      volumeOf: (path) => ({ kind: path.includes("atomic") ? "atomic" : "plain" }),
      bundle: "/bundle",
      disableGuestSeccomp: false,
    });
    const devices = withGuestDevices(
      guest,
      blocks,
      blocks.map(() => ({ major: 254, minor: 0 })),
    );
    assert.doesNotThrow(() => JSON.stringify(devices));
    must(guest.root?.path === "", "a root of the host");
    for (const { source } of binds) must(source.startsWith("/"), "a relative source");
    if (role !== "container") refuseHostNamespaces(spec);
    return `${role} ${cpus} ${binds.length} ${memory.length} ${blocks.length} ${shapeOf(guest, 2)}`;
  },
};

const resources: Target = {
  name: "oci-resources",
  about: "the resources of a Task Update, for the guest",
  format: "json",
  refuses: (error) => error instanceof SyntaxError,
  run(input) {
    const value: unknown = JSON.parse(textOf(input));
    if (typeof value !== "object" || value === null) return "no object";
    return shapeOf(guestResources(value as Parameters<typeof guestResources>[0]));
  },
};

const stdio: Target = {
  name: "stdio-uri",
  about: "the stdio strings of Create and Exec",
  format: "text",
  run(input) {
    const text = textOf(input);
    const target = outputTarget(text);
    if (target.kind !== "none") must(target.path.startsWith("/"), "a relative path");
    // Output may go to more than input can come from.
    if (target.kind === "none" || target.kind === "fifo") inputPath(text);
    else assert.throws(() => inputPath(text), { code: "ERR_INVALID_ARGUMENT" });
    return shapeOf(target);
  },
};

const bootstrap: Target = {
  name: "bootstrap",
  about: "what containerd writes to the standard input of `start`",
  format: "bytes",
  run(input) {
    const params = bootstrapParams(input, { id: "pod1", namespace: "k8s.io" });
    return `${shapeOf(params)} ${runtimeConfigPath(input).length > 0}`;
  },
};

const argv: Target = {
  name: "shim-arguments",
  about: "the shim's command line, one word a line",
  format: "text",
  run(input) {
    const parsed = parseShimArguments(textOf(input).split("\n"));
    const id = checkIdentifier("id", parsed.id);
    must(/^[\w.-]+$/.test(id) && !id.includes(".."), "an id that is no file name");
    return shapeOf(parsed);
  },
};

const pod: Target = {
  name: "pod-config",
  about: "CRI's PodSandboxConfig of containerd's sandbox API",
  format: "bytes",
  run(input) {
    const typeUrl = `types.example/${PodSandboxConfigSchema.typeName}`;
    const config = podConfig(create(AnySchema, { typeUrl, value: input }));
    const spec = podSpec({ id: "pod1", config, netnsPath: "/run/netns/a", annotations: {} });
    const size = machineSize(spec, LIMITS);
    must(Number.isInteger(size.memoryMiB), `${size.memoryMiB} MiB`);
    parseSpec(JSON.stringify(spec), "the pod");
    return `${shapeOf(config, 2)} ${shapeOf(resolvConf(config?.dnsConfig))}`;
  },
};

const task: Target = {
  name: "task-requests",
  about: "the messages of containerd.task.v2.Task; the first line names the method",
  format: "bytes",
  async run(input) {
    const { serviceHandlers } = await import("../../../src/ttrpc/index.ts");
    const { name, rest } = namedInput(
      input,
      Task.methods.map((candidate) => candidate.name),
    );
    const method = Task.methods.find((candidate) => candidate.name === name);
    must(method !== undefined, "no method");
    let shape = "";
    const handlers = {
      [method.localName]: (request: never) => {
        // What was decoded can be written and means the same.
        const again = fromBinary(method.input, toBinary(method.input, request));
        shape = shapeOf(again, 2);
        return {};
      },
    };
    const service = serviceHandlers(Task, handlers);
    const context = { service: "", method: "", metadata: new Map(), signal: new AbortController().signal };
    await service.methods.get(method.name)?.(rest, { ...context, deadline: undefined });
    return `${method.name} ${shape}`;
  },
};

export const containerdTargets: readonly Target[] = [ociSpec, resources, stdio, bootstrap, argv, pod, task];
