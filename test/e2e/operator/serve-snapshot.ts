/** The status page of a given snapshot, served in a test's world with the headers of the real one. */
import { spawn } from "node:child_process";
import type { Snapshot } from "../../../src/operator/monitor/collector.ts";
import { statusPage } from "../../../src/operator/monitor/page.ts";
import { contentSecurityPolicy } from "../../../src/operator/monitor/server.ts";
import type { World } from "../../harness/world.ts";

const NONCE = "bm9uY2U=";
/** Reads the page from its standard input; ends with its parent. */
const server = `
let page = "";
process.stdin.on("data", (chunk) => { page += chunk; if (page.endsWith("</html>\\n")) start(); });
process.stdin.on("end", () => process.exit());
const start = () => {
  const headers = { "content-type": "text/html; charset=utf-8", "content-security-policy": process.argv[1] };
  const http = require("node:http").createServer((_, response) => response.writeHead(200, headers).end(page));
  http.listen(0, "127.0.0.1", () => console.log(http.address().port));
};`;

/** The caller disposes of it before the world. */
export async function serveSnapshot(
  world: World,
  snapshot: Snapshot,
): Promise<AsyncDisposable & { readonly url: string }> {
  const policy = contentSecurityPolicy(NONCE);
  const [file = "", ...args] = world.enter([process.execPath, "-e", server, policy]);
  const child = spawn(file, args, { stdio: ["pipe", "pipe", "inherit"] });
  const exited = new Promise((resolve) => child.once("exit", resolve));
  child.stdin.write(statusPage(snapshot, "node-3.example", "0.1.0", NONCE));
  const port = await new Promise<string>((resolve, reject) => {
    child.once("error", reject);
    child.stdout.once("data", (chunk: Buffer) => resolve(chunk.toString().trim()));
  });
  return {
    url: `http://127.0.0.1:${port}/`,
    async [Symbol.asyncDispose]() {
      child.stdin.end();
      await exited;
    },
  };
}
