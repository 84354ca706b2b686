/** The monitor's web server: /metrics for Prometheus, / for people, /healthz for supervisors. */
import { randomBytes } from "node:crypto";
import http from "node:http";
import os from "node:os";
import { describeError, SandboxError } from "../../base/errors.ts";
import type { Collector } from "./collector.ts";
import type { MetricsPage } from "./metrics-page.ts";
import { statusPage } from "./page.ts";

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

export interface MonitorServer extends AsyncDisposable {
  /** With the port that was chosen for port 0. */
  readonly address: ListenAddress;
}

/** Milliseconds for a client to send its request. */
const REQUEST_LIMIT_MS = 5_000;

export async function serveMonitor(
  collector: Collector,
  metrics: MetricsPage,
  listen: ListenAddress,
  version: string,
): Promise<MonitorServer> {
  const server = http.createServer({ requestTimeout: REQUEST_LIMIT_MS }, (request, response) => {
    answer(request, response).catch((error: unknown) => {
      if (!response.headersSent) response.writeHead(500, { "content-type": "text/plain; charset=utf-8" });
      response.end(`${describeError(error)}\n`);
    });
  });
  const answer = async (request: http.IncomingMessage, response: http.ServerResponse) => {
    if (request.method !== "GET" && request.method !== "HEAD") {
      response.writeHead(405, { allow: "GET, HEAD" }).end();
      return;
    }
    const path = (request.url ?? "/").split("?", 1)[0];
    if (path === "/metrics")
      send(response, metrics.contentType, await metrics.render(await collector.collect()));
    else if (path === "/healthz") send(response, "text/plain", "ok\n");
    else if (path === "/") {
      const nonce = randomBytes(12).toString("base64");
      response.setHeader("content-security-policy", contentSecurityPolicy(nonce));
      const page = statusPage(await collector.collect(), os.hostname(), version, nonce);
      send(response, "text/html; charset=utf-8", page);
    } else response.writeHead(404, { "content-type": "text/plain" }).end("not found\n");
  };
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => reject(cannotListen(listen, cause)));
    server.listen(listen.port, listen.host, resolve);
  });
  const bound = server.address();
  const port = typeof bound === "object" && bound !== null ? bound.port : listen.port;
  return {
    address: { host: listen.host, port },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

/** The page has one style sheet of its own, and nothing else. */
export function contentSecurityPolicy(nonce: string): string {
  return `default-src 'none'; style-src 'nonce-${nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`;
}

function send(response: http.ServerResponse, type: string, body: string): void {
  response.writeHead(200, {
    "content-type": type,
    "content-length": Buffer.byteLength(body),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
  });
  // Node leaves out the body for HEAD.
  response.end(body);
}

function cannotListen({ host, port }: ListenAddress, cause: Error): SandboxError {
  const code = (cause as { code?: unknown }).code;
  const why = typeof code === "string" ? listenProblems[code] : undefined;
  return new SandboxError("ERR_HOST", `cannot listen at ${host}:${port}: ${why ?? cause.message}`);
}

const listenProblems: Readonly<Record<string, string>> = {
  EADDRINUSE: "something else listens there; name another port with --listen",
  EADDRNOTAVAIL: "this host does not have that address; ip address shows those it has",
  ENOTFOUND: "there is no host of that name; --listen takes an address",
  EACCES: "ports below 1024 need root",
};
