/**
 * Preloaded into a shim under load (NODE_OPTIONS): on SIGUSR2 it collects its garbage and writes what is left to
 * CAISSON_HEAP_FILE. What a process needs at a moment is noise; what two collections leave is held by something.
 */
"use strict";
const fs = require("node:fs");
const v8 = require("node:v8");
const vm = require("node:vm");

const file = process.env.CAISSON_HEAP_FILE;
process.on("SIGUSR2", () => {
  v8.setFlagsFromString("--expose-gc");
  const collect = vm.runInNewContext("gc");
  collect();
  // Finalizers and the closing of handles have run by then.
  setTimeout(() => {
    collect();
    fs.writeFileSync(`${file}.new`, JSON.stringify(process.memoryUsage()));
    fs.renameSync(`${file}.new`, file);
  }, 50);
});
