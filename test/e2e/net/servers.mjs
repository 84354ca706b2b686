// What stands for the world outside of a pod: a TCP server that answers in capitals on port 7000, and a DNS server that
// knows name.test as 192.0.2.7. Prints "ready"; ends with its standard input.
import { createSocket } from "node:dgram";
import { createServer } from "node:net";

const tcp = createServer({ allowHalfOpen: true }, (socket) => {
  socket.on("error", () => undefined);
  socket.on("data", (chunk) => socket.write(chunk.toString().toUpperCase()));
  socket.on("end", () => socket.end());
});

/** RFC 1035: header of 12 bytes, the question as it came, and for an A question one answer that points back to it. */
function answer(query) {
  let at = 12;
  const labels = [];
  for (; query[at] !== 0; at += query[at] + 1)
    labels.push(query.subarray(at + 1, at + 1 + query[at]).toString());
  const question = query.subarray(12, at + 5);
  const known = labels.join(".").toLowerCase() === "name.test";
  const hasAnswer = known && query.readUInt16BE(at + 1) === 1;
  const header = Buffer.alloc(12);
  query.copy(header, 0, 0, 2);
  header.writeUInt16BE(known ? 0x8580 : 0x8583, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(hasAnswer ? 1 : 0, 6);
  const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
  return Buffer.concat(hasAnswer ? [header, question, record] : [header, question]);
}

const dns = createSocket({ type: "udp6" });
dns.on("message", (query, peer) => dns.send(answer(query), peer.port, peer.address));
process.stdin.resume().on("end", () => process.exit());
tcp.listen(7000, "::", () => dns.bind(53, "::", () => console.log("ready")));
