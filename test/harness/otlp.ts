/** A collector of OpenTelemetry traces in a test's world, and what it was sent: checked against the schema of OTLP. */
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import * as v from "valibot";
import { repositoryRoot } from "./paths.ts";
import type { World } from "./world.ts";

export interface SeenSpan {
  readonly service: string;
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string;
  readonly kind: number;
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly failed: boolean;
}

const decimal = v.pipe(v.string(), v.regex(/^[0-9]+$/));
const hex = (digits: number) => v.pipe(v.string(), v.regex(new RegExp(`^(?!0+$)[0-9a-f]{${digits}}$`)));
const keyValues = v.array(
  v.strictObject({
    key: v.pipe(v.string(), v.nonEmpty()),
    value: v.union([
      v.strictObject({ stringValue: v.string() }),
      v.strictObject({ boolValue: v.boolean() }),
      v.strictObject({ intValue: decimal }),
      v.strictObject({ doubleValue: v.number() }),
    ]),
  }),
);
/** ExportTraceServiceRequest of opentelemetry-proto 1.x in the JSON form of OTLP, as far as it is sent. */
const exportTraceServiceRequest = v.strictObject({
  resourceSpans: v.array(
    v.strictObject({
      resource: v.strictObject({ attributes: keyValues }),
      scopeSpans: v.array(
        v.strictObject({
          scope: v.strictObject({ name: v.string(), version: v.string() }),
          spans: v.array(
            v.strictObject({
              traceId: hex(32),
              spanId: hex(16),
              parentSpanId: v.optional(hex(16)),
              flags: v.pipe(v.number(), v.integer()),
              name: v.pipe(v.string(), v.nonEmpty()),
              kind: v.picklist([1, 2, 3]),
              startTimeUnixNano: decimal,
              endTimeUnixNano: decimal,
              attributes: keyValues,
              status: v.optional(v.strictObject({ code: v.literal(2), message: v.string() })),
            }),
          ),
        }),
      ),
    }),
  ),
});

interface SeenRequest {
  readonly method: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

export class OtlpCollector implements Disposable {
  readonly endpoint: string;
  readonly #file: string;
  readonly #end: () => void;

  private constructor(endpoint: string, file: string, end: () => void) {
    this.endpoint = endpoint;
    this.#file = file;
    this.#end = end;
  }

  /** The caller disposes of it before its world. */
  static async start(world: World): Promise<OtlpCollector> {
    const file = join(world.dir, "spans.jsonl");
    const script = join(repositoryRoot, "test/harness/otlp-collector.mjs");
    const [program = "", ...args] = world.enter([process.execPath, script, file]);
    const child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
    const port = await new Promise<string>((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", () => reject(new Error("the collector ended")));
      child.stdout.once("data", (chunk: Buffer) => resolve(chunk.toString().trim()));
    });
    return new OtlpCollector(`http://127.0.0.1:${port}`, file, () => child.stdin.end());
  }

  /** What came to paths that begin with `prefix`, so far. */
  requests(prefix = "/v1/traces"): SeenRequest[] {
    if (!existsSync(this.#file)) return [];
    const lines = readFileSync(this.#file, "utf8").split("\n");
    return lines
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as SeenRequest)
      .filter(({ url }) => url.startsWith(prefix));
  }

  /** Our spans, sent in JSON. @throws where a request is not as OTLP has it */
  spans(prefix?: string): SeenSpan[] {
    return this.requests(prefix)
      .filter(({ headers }) => headers["content-type"] === "application/json")
      .flatMap(({ body }) => spansOf(JSON.parse(Buffer.from(body, "base64").toString())));
  }

  /** Those of others (containerd), sent as protobuf: ids and names only. */
  othersSpans(): Pick<SeenSpan, "traceId" | "spanId" | "name">[] {
    return this.requests()
      .filter(({ headers }) => headers["content-type"] === "application/x-protobuf")
      .flatMap(({ body }) => protobufSpans(Buffer.from(body, "base64")));
  }

  [Symbol.dispose](): void {
    this.#end();
  }
}

function spansOf(body: unknown): SeenSpan[] {
  const { resourceSpans } = v.parse(exportTraceServiceRequest, body);
  return resourceSpans.flatMap(({ resource, scopeSpans }) => {
    const service = String(record(resource.attributes)["service.name"]);
    return scopeSpans.flatMap(({ spans }) =>
      spans.map((span) => ({
        service,
        name: span.name,
        traceId: span.traceId,
        spanId: span.spanId,
        parentSpanId: span.parentSpanId ?? "",
        kind: span.kind,
        startNs: BigInt(span.startTimeUnixNano),
        endNs: BigInt(span.endTimeUnixNano),
        attributes: record(span.attributes),
        failed: span.status !== undefined,
      })),
    );
  });
}

const record = (attributes: v.InferOutput<typeof keyValues>): Record<string, unknown> =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]]));

/** Fields 1, 2 and 2 lead from the request by ResourceSpans and ScopeSpans to Span, whose 1, 2 and 5 are what we want. */
function protobufSpans(request: Uint8Array): Pick<SeenSpan, "traceId" | "spanId" | "name">[] {
  const spans = fields(request, 1).flatMap((resource) =>
    fields(resource, 2).flatMap((scope) => fields(scope, 2)),
  );
  const text = (span: Uint8Array, field: number, encoding: BufferEncoding) =>
    Buffer.from(fields(span, field)[0] ?? []).toString(encoding);
  return spans.map((span) => ({
    traceId: text(span, 1, "hex"),
    spanId: text(span, 2, "hex"),
    name: text(span, 5, "utf8"),
  }));
}

function fields(message: Uint8Array, wanted: number): Uint8Array[] {
  const reader = new BinaryReader(message);
  const found: Uint8Array[] = [];
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === wanted && type === WireType.LengthDelimited) found.push(reader.bytes());
    else reader.skip(type, field);
  }
  return found;
}
