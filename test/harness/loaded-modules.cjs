// Loaded into every program of a test's containerd (NODE_OPTIONS=--require): appends to the file LOADED_MODULES, when the
// program ends, a line of JSON with its arguments, Node's own modules that it has loaded, and how often it has run
// something in an AsyncLocalStorage.
const { AsyncLocalStorage } = require("node:async_hooks");
const { appendFileSync } = require("node:fs");

let contexts = 0;
const { run } = AsyncLocalStorage.prototype;
AsyncLocalStorage.prototype.run = function (...args) {
  contexts += 1;
  return run.apply(this, args);
};

process.on("exit", () => {
  const modules = process.moduleLoadList
    .filter((name) => name.startsWith("NativeModule "))
    .map((name) => name.slice("NativeModule ".length));
  const record = { title: process.title, args: process.argv.slice(2), modules, contexts };
  appendFileSync(process.env.LOADED_MODULES, `${JSON.stringify(record)}\n`);
});
