/**
 * `text` as a protobuf string of at most `limit` UTF-16 units: half a surrogate pair, of which UTF-8 knows nothing and for which the
 * host would refuse the whole message, becomes U+FFFD.
 */
export function cut(text: string, limit: number): string {
  return text.slice(0, limit).replace(/[\ud800-\udfff]/gu, "\ufffd");
}
