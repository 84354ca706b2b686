/** What leaves the host in a bug report has no secrets in it, and what says how a sandbox came to be. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  REDACTED,
  redactConfigText,
  redactSpec,
  redactUrl,
  redactVariable,
} from "../../../src/operator/redact.ts";

test("a spec keeps its form, without values of variables and the user's annotations", () => {
  const spec = {
    process: { args: ["app"], env: ["PATH=/bin", "TOKEN=a=b\nc"] },
    annotations: {
      "io.kubernetes.cri.sandbox-name": "web",
      "io.caisson.config.hypervisor.default_memory": "512",
      "example.com/token": "secret",
      "io.kubernetes.cri-o.Annotations": '{"example.com/token":"secret"}',
      "kubectl.kubernetes.io/last-applied-configuration": "secret",
    },
    mounts: [{ destination: "/proc" }],
  };
  assert.deepEqual(redactSpec(spec), {
    process: { args: ["app"], env: [`PATH=${REDACTED}`, `TOKEN=${REDACTED}`] },
    annotations: {
      "io.kubernetes.cri.sandbox-name": "web",
      "io.caisson.config.hypervisor.default_memory": "512",
      "example.com/token": REDACTED,
      "io.kubernetes.cri-o.Annotations": REDACTED,
      "kubectl.kubernetes.io/last-applied-configuration": REDACTED,
    },
    mounts: [{ destination: "/proc" }],
  });
  for (const odd of [null, "text", [], { process: null }, { process: { env: 5 } }, { annotations: [] }])
    assert.doesNotThrow(() => redactSpec(odd));
});

test("configuration files lose the values of keys that speak of a secret", () => {
  const text =
    'root = "/var"\n  password = "s"\n"auth-token" = "s"\nidentity_token: s\n[auth]\n  username = "s"\n';
  assert.equal(
    redactConfigText(text),
    `root = "/var"\n  password = ${REDACTED}\n"auth-token" = ${REDACTED}\nidentity_token: ${REDACTED}\n[auth]\n  username = ${REDACTED}\n`,
  );
});

test("addresses lose their user and password and keep their host", () => {
  assert.equal(
    redactUrl("get https://me:s3cret@host:5000/v2 http://tok@h ok"),
    `get https://${REDACTED}@host:5000/v2 http://${REDACTED}@h ok`,
  );
  assert.equal(redactUrl("mail me@host, unix:///run/x.sock"), "mail me@host, unix:///run/x.sock");
  assert.equal(redactVariable("A=b=c"), `A=${REDACTED}`);
});
