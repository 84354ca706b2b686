/** What QEMU and the kernel say: QMP, the console, netlink. */
import assert from "node:assert/strict";
import { SandboxError } from "../../../src/base/errors.ts";
import {
  LINE_LIMIT_BYTES,
  LineSplitter,
  printable,
  TAIL_BYTES,
  TailBuffer,
} from "../../../src/hypervisor/tail-buffer.ts";
import { dumpAddresses, parseAddress } from "../../../src/netlink/address.ts";
import { formatIp, formatMac, parseCidr, parseIp, parseMac } from "../../../src/netlink/ip-address.ts";
import { parseLink } from "../../../src/netlink/link.ts";
import { decodeMessages, encodeMessage } from "../../../src/netlink/message.ts";
import { parseNeighbour } from "../../../src/netlink/neighbour.ts";
import { parseChain, parseNftRule } from "../../../src/netlink/nftables.ts";
import { NetlinkError, requireSuccess, sortReplies } from "../../../src/netlink/reply.ts";
import { parseRoute } from "../../../src/netlink/route.ts";
import { parseRule } from "../../../src/netlink/rule.ts";
import { parseBpf } from "../../../src/netlink/tc-bpf.ts";
import { parseU32 } from "../../../src/netlink/tc-u32.ts";
import { parseFilter, parseQdisc } from "../../../src/netlink/traffic-control.ts";
import { MessageSplitter, parseMessage } from "../../../src/qmp/messages.ts";
import { QmpClient } from "../../../src/qmp/qmp-client.ts";
import { memoryStreamPair } from "../../../src/ttrpc/index.ts";
import { hasControl, must, refusalKind, shapeOf, type Target, textOf } from "../target.ts";

const MOST_BYTES = 8 << 10;

const qmpMessages: Target = {
  name: "qmp-messages",
  about: "QEMU's messages, in pieces of any size",
  format: "text",
  run(input, random) {
    const lines = new MessageSplitter(MOST_BYTES).push(input);
    const splitter = new MessageSplitter(MOST_BYTES);
    assert.deepEqual(
      random.pieces(input).flatMap((piece) => splitter.push(piece)),
      lines,
      "the pieces make a difference",
    );
    return lines.map((line) => shapeOf(parseMessage(line), 4)).join(" ");
  },
};

const qmpClient: Target = {
  name: "qmp-client",
  about: "a whole QMP connection",
  format: "text",
  async run(input, random) {
    const [near, far] = memoryStreamPair();
    const drained = (async () => {
      for await (const _ of far.readable);
    })();
    const fed = (async () => {
      try {
        for (const piece of random.pieces(input)) await far.write(piece);
      } catch {
        // The client gave up.
      }
      far.end();
    })();
    let events = 0;
    let outcome: string;
    try {
      const client = await QmpClient.connect({ stream: near });
      client.on("SHUTDOWN", () => {
        events += 1;
      });
      const calls = [client.execute("query-status"), client.execute("stop"), client.executeRaw("no-such")];
      const settled = await Promise.allSettled(calls);
      for (const call of settled) {
        if (call.status === "rejected" && !(call.reason instanceof SandboxError)) throw call.reason;
      }
      outcome = settled
        .map((call) => (call.status === "fulfilled" ? shapeOf(call.value) : refusalKind(call.reason)))
        .join();
      client.close();
      await client.closed;
    } catch (error) {
      // An answer that comes before its command is none, so that this is not for the input alone to decide.
      if (!(error instanceof SandboxError) || error.code === "ERR_INTERNAL") throw error;
      outcome = refusalKind(error);
    } finally {
      near.destroy();
      await Promise.all([drained, fed]);
    }
    return `${outcome} ${Math.min(events, 3)}`;
  },
};

const console: Target = {
  name: "console-lines",
  about: "the guest's console and the standard error of helpers",
  format: "bytes",
  run(input, random) {
    const lines: string[] = [];
    const splitter = new LineSplitter((line) => lines.push(line));
    const tail = new TailBuffer();
    for (const piece of random.pieces(input)) {
      splitter.push(piece);
      tail.push(piece);
    }
    splitter.flush();
    for (const line of lines) {
      must(line.length <= LINE_LIMIT_BYTES, "a line over the limit");
      must(!hasControl(printable(line), "\t\n"), "a control character");
    }
    must(tail.text().length <= TAIL_BYTES, "a tail over the limit");
    return `${Math.ceil(Math.log2(lines.length + 1))}`;
  },
};

/** linux/rtnetlink.h and, for nf_tables, subsystem 10 in the upper byte. */
const parsers: Readonly<Record<number, (payload: Uint8Array) => unknown>> = {
  16: parseLink,
  17: parseLink,
  20: parseAddress,
  21: parseAddress,
  24: parseRoute,
  25: parseRoute,
  28: parseNeighbour,
  29: parseNeighbour,
  32: parseRule,
  36: parseQdisc,
  44: (payload) => {
    const filter = parseFilter(payload);
    return { ...filter, u32: parseU32(filter.options), bpf: parseBpf(filter.options) };
  },
  [(10 << 8) | 3]: parseChain,
  [(10 << 8) | 6]: parseNftRule,
};

const netlink: Target = {
  name: "netlink",
  about: "datagrams of the kernel: links, addresses, routes, neighbours, rules, traffic control, nf_tables",
  format: "bytes",
  refuses: (error) => error instanceof NetlinkError && error.code !== "",
  run(input) {
    const messages = decodeMessages(input);
    for (const message of messages) {
      const { type, flags, sequence, payload } = message;
      const [again] = decodeMessages(encodeMessage(type, flags, sequence, payload));
      must(
        again !== undefined && Buffer.from(again.payload).equals(payload),
        "another message when written again",
      );
    }
    const shapes = messages.map(
      (message) => `${message.type}${shapeOf(parsers[message.type]?.(message.payload))}`,
    );
    const [reply] = sortReplies([input], messages[0]?.sequence ?? 1, 1);
    if (reply !== undefined) requireSuccess(dumpAddresses(), reply);
    return shapes.slice(0, 8).join();
  },
};

const addresses: Target = {
  name: "ip-text",
  about: "addresses as text, from configurations, CNI results and the guest",
  format: "text",
  run(input) {
    const text = textOf(input);
    if (text.includes("/")) {
      const { address, prefixLength } = parseCidr(text);
      must(prefixLength <= address.length * 8, "a prefix longer than the address");
      assert.deepEqual(parseIp(formatIp(address)), address);
      return `cidr ${address.length} ${prefixLength >> 3}`;
    }
    if (/^[^:.]{2}:[^:.]{2}:/.test(text)) {
      const mac = parseMac(text);
      assert.equal(formatMac(mac), text.toLowerCase());
      return `mac ${Math.min(mac.length, 8)}`;
    }
    const ip = parseIp(text);
    assert.deepEqual(parseIp(formatIp(ip)), ip);
    return `ip ${ip.length} ${formatIp(ip).replace(/[0-9a-f]+/g, "x")}`;
  },
};

export const machineTargets: readonly Target[] = [qmpMessages, qmpClient, console, netlink, addresses];
