/** The guest agent bundles the ttrpc core: nothing in it may need Node. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { runInNewContext } from "node:vm";
import { build, type Plugin } from "esbuild";

const root = fileURLToPath(new URL("../../..", import.meta.url));

/** Generated code decodes its descriptor when it is loaded, so the codec must be in place before. */
const codec = `
  import { configureTextEncoding } from "@bufbuild/protobuf/wire";
  configureTextEncoding({
    encodeUtf8: (text) => Uint8Array.from(text, (c) => c.charCodeAt(0)),
    decodeUtf8: (bytes) => String.fromCharCode(...bytes),
    checkUtf8: () => true,
  });`;

const program = `
  import "codec";
  import { createClient, memoryStreamPair, serveConnection, serviceHandlers, TtrpcClient } from "./src/ttrpc/index.ts";
  import { Task } from "./src/gen/containerd/task/v2/task_pb.ts";
  const [near, far] = memoryStreamPair();
  serveConnection(near, [serviceHandlers(Task, { start: ({ id }) => ({ pid: id.length }) })]);
  const tasks = createClient(Task, new TtrpcClient(far));
  report(tasks.start({ id: "abcd" }, { timeoutMs: 1000 }).then((response) => response.pid));`;

const codecPlugin: Plugin = {
  name: "codec",
  setup(setup) {
    setup.onResolve({ filter: /^codec$/ }, () => ({ path: "codec", namespace: "codec" }));
    setup.onLoad({ filter: /.*/, namespace: "codec" }, () => ({ contents: codec, resolveDir: root }));
  },
};

test("the core makes a call in a realm that has neither Node nor a text encoder", async () => {
  const { outputFiles, metafile } = await build({
    stdin: { contents: program, resolveDir: root },
    plugins: [codecPlugin],
    bundle: true,
    write: false,
    format: "iife",
    platform: "neutral",
    mainFields: ["module", "main"],
    metafile: true,
  });
  assert.deepEqual(
    Object.values(metafile.outputs).flatMap((output) => output.imports),
    [],
  );
  const pid = await new Promise<number>((resolve, reject) => {
    const report = (answer: Promise<number>) => answer.then(resolve, reject);
    // AbortController, timers and a clock are what the guest provides besides the language itself.
    const provided = { AbortController, setTimeout, clearTimeout, performance };
    runInNewContext(outputFiles[0]?.text ?? "", { ...provided, report });
  });
  assert.equal(pid, 4);
});
