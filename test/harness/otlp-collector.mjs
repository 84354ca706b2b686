// A collector of OpenTelemetry traces: takes POSTs on a free port of the loopback and appends each as a line of JSON,
// its body in base64, to the file that it is given. Requests below /hang are never answered. Prints its port; ends with
// its standard input.
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";

const [, , file = ""] = process.argv;
const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const { method, url, headers } = request;
    const body = Buffer.concat(chunks).toString("base64");
    appendFileSync(file, `${JSON.stringify({ method, url, headers, body })}\n`);
    if (!url.startsWith("/hang/")) response.writeHead(200, { "content-type": headers["content-type"] }).end();
  });
});
process.stdin.resume().on("end", () => process.exit());
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
