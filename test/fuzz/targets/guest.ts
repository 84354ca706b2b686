/** The guest agent's decoders, run by Node: what the host, the image and the guest's kernel tell it. */
import assert from "node:assert/strict";
import { type DescMessage, fromBinary, toBinary } from "@bufbuild/protobuf";
import { parseCommandLine } from "../../../guest-agent/src/boot/command-line.ts";
import { parseModuleList } from "../../../guest-agent/src/boot/module-list.ts";
import { capabilitySets } from "../../../guest-agent/src/container/capability-sets.ts";
import { assembleDeviceFilter } from "../../../guest-agent/src/container/device-program.ts";
import { parseMountOptions } from "../../../guest-agent/src/container/mount-options.ts";
import { topMountPoints } from "../../../guest-agent/src/container/mountinfo.ts";
import {
  decodeContainerSpec,
  decodeProcessSpec,
  decodeResources,
} from "../../../guest-agent/src/container/oci-spec.ts";
import { planResources } from "../../../guest-agent/src/container/resource-plan.ts";
import { planSeccomp } from "../../../guest-agent/src/container/seccomp-plan.ts";
import { sysctlPath } from "../../../guest-agent/src/container/sysctl-path.ts";
import { missingInterfaces, planNetwork } from "../../../guest-agent/src/net/plan.ts";
import { meminfoBytes } from "../../../guest-agent/src/proc-text.ts";
import { parseUevent } from "../../../guest-agent/src/uevent.ts";
import { countOf, unionOf } from "../../../src/base/cpu-list.ts";
import * as generated from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import type { Link } from "../../../src/netlink/link.ts";
import { decodeMessages, encodeMessage } from "../../../src/netlink/message.ts";
import { GuestError, GuestMessages } from "../../harness/guest-messages.ts";
import { must, namedInput, shapeOf, type Target, textOf } from "../target.ts";

const messages: readonly DescMessage[] = generated.file_caisson_agent_v1_agent.messages;

let guest: GuestMessages | undefined;

const protobuf: Target = {
  name: "guest-messages",
  about: "the agent's own protobuf decoder against protobuf-es; the first line names the message",
  format: "bytes",
  // Its callers turn whatever it throws into InvalidArgument (src/ttrpc/service.ts).
  refuses: (error) => (error instanceof GuestError && error.name === "RangeError") || isMalformed(error),
  prepare: async () => {
    guest = await GuestMessages.start();
  },
  async run(input) {
    const { name, rest: bytes } = namedInput(
      input,
      messages.map((message) => message.name),
    );
    const message = messages.find((candidate) => candidate.name === name);
    must(message !== undefined && guest !== undefined, "no message");
    const decoded = await guest.ask("decode", message.name, bytes);
    // protobuf-es does not look at wire types, so that the two are compared on what it has written itself.
    const theirs = fromBinary(message, bytes, { readUnknownFields: false });
    const ours = await guest.ask("decode", message.name, toBinary(message, theirs));
    const encoded = (await guest.ask("encode", message.name, ours)) as Uint8Array;
    assert.deepEqual(fromBinary(message, encoded), theirs, `another ${message.name}`);
    return `${message.name} ${shapeOf(decoded, 2)}`;
  },
};

/** What protobuf-es' reader throws for malformed bytes that ours takes: it is strict about UTF-8. */
function isMalformed(error: unknown): boolean {
  if (!(error instanceof Error) || error instanceof assert.AssertionError) return false;
  if (error instanceof RangeError) return !/call stack|array length|string length/i.test(error.message);
  return /^(premature EOF|invalid varint|illegal tag|cant skip|invalid end group|maximum recursion depth|invalid int|invalid uint|The encoded data was not valid)/.test(
    error.message,
  );
}

const spec: Target = {
  name: "guest-spec",
  about: "the OCI spec in the guest, and what is planned from it",
  format: "json",
  run(input) {
    const text = textOf(input);
    const decoded = decodeContainerSpec(text);
    const { linux, process: init } = decoded;
    capabilitySets(init.capabilities);
    for (const key of linux.sysctl.keys())
      must(sysctlPath(key).startsWith("/proc/sys/"), "a sysctl elsewhere");
    const writes = linux.resources === undefined ? [] : planResources(linux.resources);
    for (const { file } of writes) must(!file.includes("/") && !file.includes(".."), `a cgroup file ${file}`);
    const filter = assembleDeviceFilter(linux.resources?.devices ?? []);
    must(filter.length % 8 === 0 && filter.length < 8 * 4096, "a device program of the wrong size");
    const seccomp = linux.seccomp === undefined ? undefined : planSeccomp(linux.seccomp);
    for (const { destination, options } of decoded.mounts) parseMountOptions(options, destination);
    return `${writes.length} ${filter.length} ${seccomp?.rules.length} ${shapeOf(decoded, 1)}`;
  },
};

const processes: Target = {
  name: "guest-exec",
  about: "the process of an exec and the resources of an update, in the guest",
  format: "json",
  run(input) {
    const text = textOf(input);
    if (!text.includes('"args"')) return `resources ${planResources(decodeResources(text)).length}`;
    return shapeOf(decodeProcessSpec(text));
  },
};

const LINKS: readonly Link[] = ["lo", "eth0", "eth1"].map((name, index) => ({
  index: index + 1,
  name,
  type: index === 0 ? 772 : 1,
  flags: index === 0 ? 8 : 0,
  mtu: 1500,
  mac: `02:00:00:00:00:0${index}`,
  kind: "",
  parentIndex: 0,
  masterIndex: 0,
  qdisc: "noqueue",
  txQueueLength: 0,
  carrier: true,
  gsoMaxSize: 0,
  stats: undefined,
}));

const network: Target = {
  name: "guest-network",
  about: "ApplyNetwork in the guest: the netlink requests it becomes",
  format: "bytes",
  refuses: (error) => error instanceof Error && isMalformed(error),
  run(input) {
    const request = fromBinary(generated.ApplyNetworkRequestSchema, input);
    missingInterfaces(request, LINKS);
    const plan = planNetwork(request, LINKS);
    for (const { type, payload } of plan) {
      const [message] = decodeMessages(encodeMessage(type, 0, 1, payload));
      must(message?.payload.length === payload.length, "a request that is read as another");
    }
    return `${plan.length} ${shapeOf(request, 2)}`;
  },
};

const guestText: Target = {
  name: "guest-text",
  about: "kernel command line, list of modules, uevents, /proc; the first byte picks",
  format: "text",
  run(input) {
    const text = textOf(input.subarray(1));
    switch (textOf(input.subarray(0, 1))) {
      case "c": {
        const options = parseCommandLine(text);
        must(options.hostPort > 0 && options.hostPort < 2 ** 32, "a port that is none");
        return shapeOf(options);
      }
      case "m": {
        const { entries, malformed } = parseModuleList(text);
        return `m ${Math.min(entries.length, 9)} ${Math.min(malformed.length, 9)}`;
      }
      case "u":
        return shapeOf(parseUevent(text)?.subsystem);
      case "i":
        return `i ${meminfoBytes(text, "MemTotal") > 0n}`;
      case "p": {
        const count = countOf(text);
        must(Number.isInteger(count) && count >= 0 && count <= 8192, `${count} cpus`);
        const union = unionOf([text]);
        must(countOf(union) === count && unionOf([union]) === union, `${union} is not ${count} cpus`);
        return `p ${Math.min(count, 9)} ${Math.min(union.split(",").length, 9)}`;
      }
      default:
        return shapeOf(topMountPoints(text, "/oldroot"));
    }
  },
};

export const guestTargets: readonly Target[] = [protobuf, spec, processes, network, guestText];
