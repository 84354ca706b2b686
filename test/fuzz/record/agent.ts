/** The real agent as a process: its hello, its log events, its answers, its streams' refusals. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Agent, Host } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { createClient, serveConnection, serviceHandlers, TtrpcClient } from "../../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../../src/ttrpc/node-stream.ts";
import { agentPath } from "../../integration/guest-agent/agent-process.ts";
import type { Save } from "./main.ts";
import { framesOf, type Recording, tee } from "./tee.ts";

export async function recordAgent(save: Save): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "caisson-agent-"));
  const events = deferred<Recording>();
  const hosts: Recording[] = [];
  const server = net.createServer((socket) => {
    const { stream, recording } = tee(byteStreamFromSocket(socket));
    hosts.push(recording);
    const handlers = serviceHandlers(Host, {
      hello: () => ({ protocolVersion: 1, timeUnixNano: 0n, logLevel: "debug" }),
      notify: () => {
        events.resolve(recording);
        return {};
      },
    });
    serveConnection(stream, [handlers]);
  });
  await new Promise<void>((resolve) => server.listen(join(directory, "host.sock"), resolve));
  const child = spawn(agentPath, ["--listen-unix", directory], { stdio: "ignore" });
  try {
    while (hosts.length === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    const socket = net.connect(join(directory, "1024"));
    await once(socket, "connect");
    const { stream, recording } = tee(byteStreamFromSocket(socket));
    const client = new TtrpcClient(stream);
    const agent = createClient(Agent, client, { timeoutMs: 5_000 });
    await agent.guestInfo({});
    await agent.startProcess({ containerId: "c" }).catch(() => undefined);
    await agent.containerStats({ containerId: "c" }).catch(() => undefined);
    const answers = Buffer.concat(recording.received);
    save("ttrpc-client", "agent", answers);
    for (const { header, data } of framesOf([answers]))
      save("ttrpc-response", `agent-${header.streamId}`, data);
    for (const { header, data } of framesOf(recording.sent))
      save("ttrpc-request", `host-${header.streamId}`, data);
    save("ttrpc-frames", "agent-answers", answers);
    const host = await events.promise;
    save("agent-events", "hello", Buffer.concat(host.received));
    client.close();
  } finally {
    child.kill("SIGKILL");
    await once(child, "exit");
    server.close();
    rmSync(directory, { recursive: true, force: true });
  }
}

function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => undefined;
  const promise = new Promise<T>((yes) => {
    resolve = yes;
  });
  return { promise, resolve };
}
