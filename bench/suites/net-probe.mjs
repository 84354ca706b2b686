// Round trips and connections to a TCP server, from the node: net-probe.mjs rtt|connect ADDRESS PORT COUNT. Prints JSON.
import { connect } from "node:net";

const [what, host, port, count] = process.argv.slice(2);
const open = () =>
  new Promise((resolve, reject) => {
    const socket = connect({ host, port: Number(port), noDelay: true }, () => resolve(socket));
    socket.once("error", reject);
  });

/** Microseconds of each exchange of 64 bytes on one connection. */
async function roundTrips() {
  const socket = await open();
  const times = [];
  for (let i = 0; i < Number(count); i++) {
    const started = process.hrtime.bigint();
    socket.write(Buffer.alloc(64, 120));
    for (let got = 0; got < 64; )
      got += (await new Promise((resolve) => socket.once("data", resolve))).length;
    times.push(Number(process.hrtime.bigint() - started) / 1000);
  }
  socket.destroy();
  return times;
}

/**
 * Connections per second, one after the other. Each asks for something and waits for the server's end: connections that
 * are only opened and closed fill the server's backlog, and the figure is then that of lost SYNs.
 */
async function connections() {
  const started = performance.now();
  for (let i = 0; i < Number(count); i++) {
    const socket = await open();
    socket.end("GET / HTTP/1.0\r\n\r\n").resume();
    await new Promise((resolve, reject) => socket.once("close", resolve).once("error", reject));
  }
  return [(Number(count) * 1000) / (performance.now() - started)];
}

console.log(JSON.stringify(await (what === "rtt" ? roundTrips() : connections())));
