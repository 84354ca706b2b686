/** Where spans go, from the configuration and the environment variables that OpenTelemetry has defined for it. Pure. */

export interface ExportSettings {
  /** Takes POSTs of OTLP/HTTP in JSON. */
  readonly url: string;
  /** Further headers, from OTEL_EXPORTER_OTLP_HEADERS. */
  readonly headers: Readonly<Record<string, string>>;
}

/** Path of traces below an endpoint (OpenTelemetry protocol specification, "OTLP/HTTP Request"). */
const TRACES_PATH = "v1/traces";

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * @param configured otlp_endpoint: a URL, "none", or empty for what the environment says.
 * @returns the settings, undefined where nothing is to be exported, or a sentence on why it cannot be.
 */
export function exportSettings(
  configured: string,
  environment: Environment,
): ExportSettings | string | undefined {
  if (configured === "none") return undefined;
  const headers = parseHeaders(
    environment.OTEL_EXPORTER_OTLP_TRACES_HEADERS ?? environment.OTEL_EXPORTER_OTLP_HEADERS ?? "",
  );
  if (configured !== "") return withUrl(`${configured.replace(/\/+$/, "")}/${TRACES_PATH}`, headers);
  if (environment.OTEL_SDK_DISABLED === "true" || environment.OTEL_TRACES_EXPORTER === "none")
    return undefined;
  const own = environment.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT ?? "";
  const base = environment.OTEL_EXPORTER_OTLP_ENDPOINT ?? "";
  if (own === "" && base === "") return undefined;
  const protocol =
    environment.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL ?? environment.OTEL_EXPORTER_OTLP_PROTOCOL ?? "";
  if (protocol === "grpc")
    return "the environment names an OTLP endpoint for gRPC; spans go out by HTTP only: set otlp_endpoint";
  return withUrl(own === "" ? `${base.replace(/\/+$/, "")}/${TRACES_PATH}` : own, headers);
}

function withUrl(url: string, headers: Readonly<Record<string, string>>): ExportSettings | string {
  const protocol = URL.canParse(url) ? new URL(url).protocol : "";
  if (protocol !== "http:" && protocol !== "https:") return `${url} is no address that spans can be sent to`;
  return { url, headers };
}

/** "name=value,name=value", values percent-encoded (OpenTelemetry, "Specifying headers via environment variables"). */
function parseHeaders(text: string): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const pair of text.split(",")) {
    const at = pair.indexOf("=");
    const name = pair.slice(0, at).trim();
    const value = decode(pair.slice(at + 1).trim());
    if (at > 0 && /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name) && /^[\x20-\x7e]*$/.test(value))
      headers[name.toLowerCase()] = value;
  }
  return headers;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
