/** Where the guest has volumes of its own (docs/protocol.md). */
export const VOLUMES_PATH = "/run/caisson/volumes";
