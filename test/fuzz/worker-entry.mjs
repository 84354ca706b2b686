// Threads do not inherit the loader of --import tsx (Node 20), so it is registered here before the thread's own module.
import { register } from "tsx/esm/api";

register();
await import("./worker.ts");
