/**
 * The shape of what the host reads of config.json. Go writes null for an empty slice or pointer, so a null member of
 * an object counts as absent, and is removed.
 */

/** @param refuse called with the place and what is expected there; throws */
type Check = (value: unknown, at: string, refuse: Refuse) => void;
export type Refuse = (at: string, expected: string) => never;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const string: Check = (value, at, refuse) => {
  if (typeof value !== "string") refuse(at, "a string");
};

const number: Check = (value, at, refuse) => {
  if (typeof value !== "number") refuse(at, "a number");
};

const boolean: Check = (value, at, refuse) => {
  if (typeof value !== "boolean") refuse(at, "true or false");
};

const absolutePath: Check = (value, at, refuse) => {
  if (typeof value !== "string" || !value.startsWith("/")) refuse(at, "an absolute path");
};

const listOf =
  (item: Check): Check =>
  (value, at, refuse) => {
    if (!Array.isArray(value)) return refuse(at, "an array");
    for (const [index, entry] of value.entries()) item(entry, `${at}[${index}]`, refuse);
  };

/** An object with these members; each may be absent, unless it is in `required`, and others are not looked at. */
const objectOf =
  (members: Readonly<Record<string, Check>>, required: readonly string[] = []): Check =>
  (value, at, refuse) => {
    if (!isObject(value)) return refuse(at === "" ? "the document" : at, "an object");
    for (const [name, check] of Object.entries(members)) {
      if (value[name] === null) delete value[name];
      if (value[name] === undefined && !required.includes(name)) continue;
      check(value[name], at === "" ? name : `${at}.${name}`, refuse);
    }
  };

const mapOf =
  (item: Check): Check =>
  (value, at, refuse) => {
    if (!isObject(value)) return refuse(at, "an object");
    for (const [name, entry] of Object.entries(value)) item(entry, `${at}["${name}"]`, refuse);
  };

const anything: Check = () => undefined;
const device = { path: string, type: string, major: number, minor: number };
const rule = { allow: boolean, type: string, major: number, minor: number, access: string };

const resources = objectOf({
  memory: objectOf({ limit: number }),
  cpu: objectOf({ quota: number, period: number }),
  devices: listOf(objectOf(rule)),
});

/** The whole document. */
export const specShape: Check = objectOf({
  process: objectOf({}),
  root: objectOf({ path: string }, ["path"]),
  hostname: string,
  annotations: mapOf(string),
  mounts: listOf(
    objectOf({ destination: absolutePath, type: string, source: string, options: listOf(string) }, [
      "destination",
    ]),
  ),
  hooks: anything,
  linux: objectOf({
    namespaces: listOf(objectOf({ type: string, path: string }, ["type"])),
    uidMappings: listOf(anything),
    gidMappings: listOf(anything),
    devices: listOf(objectOf(device, ["path", "type"])),
    resources,
    sysctl: mapOf(string),
    seccomp: objectOf({}),
  }),
});
