/** The host's native addon: typed functions over src/native/addon. Nothing is loaded until the first call. */
export { type NativeBinding, native, nativeAs } from "./binding.ts";
export * from "./fd.ts";
export { FdWatcher, type FdWatcherHandlers } from "./fd-watcher.ts";
export { FileEvent, unreadBytes, watchFile } from "./file-events.ts";
export { createMounter, detachMount, mount, type TargetOptions, unmount } from "./mount.ts";
export * from "./process.ts";
export { startTscMeasurement } from "./tsc.ts";
export * from "./vsock.ts";
