/** The kinds of configuration keys: what a value may be, how it is documented, how an annotation's text becomes one. */

export interface KeyInit<Value> {
  /** What it does, in whole sentences; goes into the documentation and the shipped file. */
  readonly doc: string;
  readonly fallback: Value;
  readonly unit?: string;
  /** A pod may set it by annotation, where the administrator allows it. Never for paths and raw arguments. */
  readonly annotation?: boolean;
  /** Release that brought it; default the first. */
  readonly since?: string;
  /** Kata Containers has the same key with the same meaning. */
  readonly kata?: boolean;
}

/** One key: declared once, used for checking, defaults, annotations and documentation. */
export interface Key<Value> {
  readonly kind: "boolean" | "integer" | "string" | "path" | "list of strings";
  readonly doc: string;
  readonly fallback: Value;
  readonly unit: string;
  readonly annotation: boolean;
  readonly since: string;
  readonly kata: boolean;
  /** What is allowed, for errors and documentation: "0 to 240", `"auto", "kvm" or "tcg"`. */
  readonly allowed: string;
  accept(value: unknown): value is Value;
  /** The value that an annotation's text stands for; undefined when it stands for none. */
  fromText(text: string): unknown;
}

function key<Value>(
  kind: Key<Value>["kind"],
  init: KeyInit<Value>,
  allowed: string,
  accept: (value: unknown) => value is Value,
  fromText: (text: string) => unknown = (text) => text,
): Key<Value> {
  return {
    kind,
    doc: init.doc,
    fallback: init.fallback,
    unit: init.unit ?? "",
    annotation: init.annotation ?? false,
    since: init.since ?? "0.1.0",
    kata: init.kata ?? false,
    allowed,
    accept,
    fromText,
  };
}

export function bool(init: KeyInit<boolean>): Key<boolean> {
  const values: Readonly<Record<string, boolean>> = { true: true, false: false };
  return key(
    "boolean",
    init,
    "true or false",
    (value) => typeof value === "boolean",
    (text) => values[text],
  );
}

export function integer(
  init: KeyInit<number> & { min: number; max: number; powerOfTwo?: boolean },
): Key<number> {
  const { min, max, powerOfTwo = false } = init;
  return key(
    "integer",
    init,
    `${powerOfTwo ? "a power of two from " : ""}${min} to ${max}${init.unit === undefined ? "" : ` ${init.unit}`}`,
    (value): value is number =>
      Number.isSafeInteger(value) &&
      (value as number) >= min &&
      (value as number) <= max &&
      (!powerOfTwo || Number.isInteger(Math.log2(value as number))),
    (text) => (/^-?\d{1,15}$/.test(text) ? Number(text) : undefined),
  );
}

export function choice<const Choices extends readonly string[]>(
  choices: Choices,
  init: KeyInit<Choices[number]>,
): Key<Choices[number]> {
  const quoted = choices.map((name) => JSON.stringify(name));
  const allowed =
    quoted.length === 1 ? `only ${quoted[0]}` : `${quoted.slice(0, -1).join(", ")} or ${quoted.at(-1)}`;
  return key("string", init, allowed, (value): value is Choices[number] =>
    choices.some((name) => name === value),
  );
}

/** A string that matches `pattern`, described by `allowed`. */
export function text(init: KeyInit<string> & { pattern: RegExp; allowed: string }): Key<string> {
  return key(
    "string",
    init,
    init.allowed,
    (value): value is string => typeof value === "string" && init.pattern.test(value),
  );
}

/** An absolute path; empty means what the key's text says. */
export function path(init: KeyInit<string>): Key<string> {
  return key(
    "path",
    init,
    "an absolute path or empty",
    // A NUL would cut the path where the kernel reads it.
    (value): value is string =>
      typeof value === "string" && (value === "" || value.startsWith("/")) && !value.includes("\0"),
  );
}

export function strings(init: KeyInit<readonly string[]>): Key<readonly string[]> {
  return key(
    "list of strings",
    init,
    "a list of strings",
    (value): value is readonly string[] =>
      Array.isArray(value) && value.every((item) => typeof item === "string" && !item.includes("\0")),
  );
}
