/** Configuration: one frozen object from file, drop-ins and annotations. */
export { ANNOTATION_PREFIX, KATA_ANNOTATION_PREFIX } from "./annotations.ts";
export { checkPaths, checkVsockDaemon, type ResolvedPaths } from "./check-paths.ts";
export {
  CONFIG_ENV,
  type Config,
  DEFAULT_CONFIG_PATHS,
  type LoadConfigInit,
  loadConfig,
  mentionsKey,
  searchConfig,
} from "./config.ts";
export { allKeys, explainDocument, type KeyReport, lineNumbers } from "./explain.ts";
export { camelCase, type SectionName, sectionNames } from "./keys.ts";
