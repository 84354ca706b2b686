/**
 * Tracing of a shim: decided once, with the configuration of the first Create, for the configuration says where spans
 * go. Until then, and for ever where they go nowhere, a call costs one comparison and no module is loaded.
 */
import { performance } from "node:perf_hooks";
import { describeError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { installTracer, parseTraceparent, TRACEPARENT } from "../../base/trace.ts";
import { VERSION } from "../../base/version.ts";
import { loadConfig, mentionsKey } from "../../config/index.ts";
import type { CallContext } from "../../ttrpc/index.ts";
import type { SpanExporter } from "./exporter.ts";
import { exportSettings } from "./settings.ts";
import type { ShimTracer } from "./tracer.ts";

export interface TracingInit {
  readonly sandboxId: string;
  readonly namespace: string;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly log: Log;
}

export interface SpanCounts {
  readonly exported: number;
  readonly dropped: number;
}

type Handler = (request: unknown, context: CallContext) => unknown;

/** Calls that make the sandbox: before them there is nothing to trace. */
const FIRST_CALLS: ReadonlySet<string> = new Set(["create", "createSandbox"]);
/** Calls that last as long as what they wait for: no spans of their own, their records have the caller's trace. */
const NOT_TRACED: ReadonlySet<string> = new Set(["wait", "waitSandbox"]);

export class Tracing {
  readonly #init: TracingInit;
  #decided: Promise<void> | undefined;
  #tracer: ShimTracer | undefined;
  #exporter: SpanExporter | undefined;

  constructor(init: TracingInit) {
    this.#init = init;
  }

  get counts(): SpanCounts {
    return this.#exporter?.counts ?? { exported: 0, dropped: 0 };
  }

  /**
   * The same handlers, each call a span under the caller's where that is told.
   * @param configPath of the configuration that a call makes its sandbox with.
   */
  traced<T extends object>(handlers: T, configPath: (request: unknown) => string): T {
    const entries = Object.entries(handlers).map(([name, value]) => {
      // One of ServiceHandlers, whose arguments are passed on as they came.
      const handler = (value as Handler).bind(handlers);
      if (NOT_TRACED.has(name)) {
        const marked: Handler = (request, context) => {
          const caller = this.#tracer === undefined ? undefined : callerOf(context);
          if (caller?.sampled === true) context.traceId = caller.traceId;
          return handler(request, context);
        };
        return [name, marked];
      }
      const tracedHandler: Handler = (request, context) => {
        if (this.#tracer !== undefined) return this.#serve(this.#tracer, 0, request, context, handler);
        if (this.#decided !== undefined || !FIRST_CALLS.has(name)) return handler(request, context);
        return this.#first(configPath(request), request, context, handler);
      };
      return [name, tracedHandler];
    });
    return Object.fromEntries(entries) as T;
  }

  /** Sends what waits, for at most `limitMs`. Never rejects. */
  async close(limitMs: number): Promise<void> {
    await this.#exporter?.close(limitMs);
  }

  async #first(path: string, request: unknown, context: CallContext, handler: Handler): Promise<unknown> {
    const cameAt = performance.now();
    this.#decided = this.#decide(path);
    await this.#decided;
    if (this.#tracer === undefined) return await handler(request, context);
    return await this.#serve(this.#tracer, performance.now() - cameAt, request, context, handler);
  }

  #serve(
    tracer: ShimTracer,
    ageMs: number,
    request: unknown,
    context: CallContext,
    handler: Handler,
  ): unknown {
    const parent = callerOf(context);
    if (parent?.sampled === false) return handler(request, context);
    const { service, method } = context;
    const attributes = {
      "rpc.system": "ttrpc",
      "rpc.service": service,
      "rpc.method": method,
      ...subject(request),
    };
    return tracer.serve(`${service}/${method}`, parent, attributes, ageMs, async (span) => {
      context.traceId = span.traceId;
      return await handler(request, context);
    });
  }

  async #decide(path: string): Promise<void> {
    const { environment, log, sandboxId, namespace } = this.#init;
    try {
      // A configuration that is wrong is an error of the call itself, which reads it, too.
      const configured = mentionsKey("otlp_endpoint", { path, env: environment })
        ? (await loadConfig({ path, env: environment })).runtime.otlpEndpoint
        : "";
      const settings = exportSettings(configured, environment);
      if (settings === undefined) return;
      if (typeof settings === "string") return log.warn({}, settings);
      const [{ SpanExporter }, { ShimTracer }, { hostname }] = await Promise.all([
        import("./exporter.ts"),
        import("./tracer.ts"),
        import("node:os"),
      ]);
      const attributes = {
        "caisson.sandbox": sandboxId,
        "caisson.namespace": namespace,
        "process.pid": process.pid,
      };
      const facts = { version: VERSION, hostName: hostname(), attributes };
      const exporter = new SpanExporter({ settings, facts, log: log.child({ component: "tracing" }) });
      this.#exporter = exporter;
      this.#tracer = new ShimTracer((span) => exporter.add(span));
      installTracer(this.#tracer);
    } catch (error) {
      log.warn({ err: describeError(error) }, "calls are not traced");
    }
  }
}

/** The span that a call was made in, where its caller tells. */
const callerOf = (context: CallContext) => parseTraceparent(context.metadata.get(TRACEPARENT)?.[0] ?? "");

/** The container and process that a request names. */
function subject(request: unknown): Record<string, string> {
  const { id, execId, sandboxId } = request as Record<string, unknown>;
  return {
    ...(typeof id === "string" && id !== "" && { "container.id": id }),
    ...(typeof execId === "string" && execId !== "" && { "caisson.exec": execId }),
    ...(typeof sandboxId === "string" && sandboxId !== "" && { "caisson.sandbox": sandboxId }),
  };
}
