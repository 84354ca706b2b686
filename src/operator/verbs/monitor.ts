/** `shim monitor`: metrics for Prometheus and a status page, until it is ended. */
import { isIP, isIPv6 } from "node:net";
import { SandboxError } from "../../base/errors.ts";
import { type Arguments, UsageError } from "../../cli/index.ts";
import type { OperatorHost } from "../host.ts";
import { Collector } from "../monitor/collector.ts";
import { MetricsPage } from "../monitor/metrics-page.ts";
import { type ListenAddress, serveMonitor } from "../monitor/server.ts";
import { SandboxWatch } from "../monitor/watch.ts";

const DEFAULT_LISTEN = "127.0.0.1:8090";

export async function runMonitor(args: Arguments, host: OperatorHost): Promise<number> {
  if (process.getuid?.() !== 0)
    throw new SandboxError(
      "ERR_PERMISSION",
      "the sandboxes are root's; run this as root (sudo shim monitor)",
    );
  const listen = parseListen(args.value("listen") ?? DEFAULT_LISTEN);
  using sandboxes = new SandboxWatch();
  const metrics = await MetricsPage.create();
  using collector = new Collector({
    find: () => sandboxes.sandboxes(),
    onLook: (snapshot) => void metrics.prepare(snapshot),
  });
  // So that the first scrape finds figures; it also says what is wrong.
  collector.collect().catch(() => undefined);
  await using server = await serveMonitor(collector, metrics, listen, host.version);
  const { address } = server;
  const shown = isIPv6(address.host) ? `[${address.host}]` : address.host;
  if (!isLoopback(address.host))
    host.stderr(
      "shim: there is no access control: whoever reaches this address sees the names of all pods\n",
    );
  host.stdout(`http://${shown}:${address.port}/ and http://${shown}:${address.port}/metrics\n`);
  await new Promise<void>((resolve) => {
    if (host.signal.aborted) resolve();
    host.signal.addEventListener("abort", () => resolve(), { once: true });
  });
  return 0;
}

/** "127.0.0.1:8090", "[::1]:8090", "localhost:0". @throws UsageError. Pure. */
export function parseListen(text: string): ListenAddress {
  const found = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const host = found?.[1] ?? found?.[2];
  const port = Number(found?.[3]);
  const valid = host !== undefined && port <= 65_535 && (found?.[1] === undefined || isIPv6(found[1]));
  if (!valid)
    throw new UsageError(
      `--listen takes ADDRESS:PORT, such as ${DEFAULT_LISTEN} or [::1]:8090, not "${text}"`,
    );
  return { host, port };
}

function isLoopback(host: string): boolean {
  if (isIP(host) === 0) return host === "localhost";
  return host === "::1" || host.startsWith("127.");
}
