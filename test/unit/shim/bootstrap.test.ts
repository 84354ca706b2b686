import assert from "node:assert/strict";
import { test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import {
  BootstrapParamsSchema,
  BootstrapResultSchema,
  LogLevel,
} from "../../../src/gen/containerd/runtime/bootstrap/v1/bootstrap_pb.ts";
import {
  RuntimeInfoSchema,
  RuntimeRequestSchema,
} from "../../../src/gen/containerd/types/introspection_pb.ts";
import { OptionsSchema } from "../../../src/gen/runtimeoptions/v1/options_pb.ts";
import { bootstrapParams, bootstrapResult, runtimeConfigPath } from "../../../src/shim/bootstrap.ts";
import { runtimeInfo } from "../../../src/shim/runtime-info.ts";

const options = create(AnySchema, {
  typeUrl: "runtimeoptions.v1.Options",
  value: toBinary(OptionsSchema, create(OptionsSchema, { typeUrl: "caisson", configPath: "/etc/x.toml" })),
});
const message = create(BootstrapParamsSchema, {
  instanceId: "c1",
  namespace: "k8s.io",
  logLevel: LogLevel.DEBUG,
  containerdVersion: "v2.3.0",
  containerdTtrpcAddress: "/run/c.sock.ttrpc",
  containerdGrpcAddress: "/run/c.sock",
  containerdBinary: "/usr/bin/containerd",
  extensions: [{ value: options }],
  socketDir: "/run/short",
});
const caller = { id: "c1", namespace: "k8s.io" };

test("bootstrapParams() reads what containerd 2.3 writes, with and without flags", () => {
  const bytes = toBinary(BootstrapParamsSchema, message);
  const expected = {
    instanceId: "c1",
    namespace: "k8s.io",
    logLevel: -4,
    containerdVersion: "v2.3.0",
    ttrpcAddress: "/run/c.sock.ttrpc",
    grpcAddress: "/run/c.sock",
    containerdBinary: "/usr/bin/containerd",
    socketDir: "/run/short",
    configPath: "/etc/x.toml",
  };
  assert.deepEqual(bootstrapParams(bytes, caller), expected);
  assert.deepEqual(bootstrapParams(bytes, { id: "", namespace: "" }), expected);
});

test("bootstrapParams() does not take runtime options, another instance's parameters or noise for them", () => {
  assert.equal(bootstrapParams(new Uint8Array(), caller), undefined);
  assert.equal(bootstrapParams(toBinary(AnySchema, options), caller), undefined);
  assert.equal(bootstrapParams(toBinary(AnySchema, options), { id: "", namespace: "" }), undefined);
  const bytes = toBinary(BootstrapParamsSchema, message);
  assert.equal(bootstrapParams(bytes, { ...caller, id: "other" }), undefined);
  for (let length = 1; length < bytes.length; length++) {
    bootstrapParams(bytes.subarray(0, length), caller); // must not throw
  }
  assert.equal(bootstrapParams(new TextEncoder().encode("unix:///run/x"), caller), undefined);
});

test("runtimeConfigPath() finds the file in the options that older containerds give, and in nothing else", () => {
  assert.equal(runtimeConfigPath(toBinary(AnySchema, options)), "/etc/x.toml");
  const other = create(AnySchema, { ...options, typeUrl: "containerd.runc.v1.Options" });
  assert.equal(runtimeConfigPath(toBinary(AnySchema, other)), "");
  assert.equal(runtimeConfigPath(new Uint8Array()), "");
});

test("bootstrapResult() is what containerd 2.3 reads", () => {
  const result = fromBinary(BootstrapResultSchema, bootstrapResult("unix:///run/containerd/s/abc"));
  assert.deepEqual(
    { version: result.version, address: result.address, protocol: result.protocol },
    { version: 3, address: "unix:///run/containerd/s/abc", protocol: "ttrpc" },
  );
});

test("runtimeInfo() answers with features, and with the options of the request in either form", () => {
  const request = toBinary(
    RuntimeRequestSchema,
    create(RuntimeRequestSchema, { runtimePath: "/usr/bin/containerd-shim-caisson-v2", options }),
  );
  for (const stdin of [toBinary(AnySchema, options), request]) {
    const info = fromBinary(RuntimeInfoSchema, runtimeInfo("io.containerd.caisson.v2", stdin));
    assert.equal(info.name, "io.containerd.caisson.v2");
    assert.deepEqual(info.options, options);
    const features = JSON.parse(new TextDecoder().decode(info.features?.value));
    assert.ok(features.mountOptions.includes("rro"));
    assert.equal(features.linux.mountExtensions.idmap.enabled, false);
  }
  assert.equal(fromBinary(RuntimeInfoSchema, runtimeInfo("n", new Uint8Array())).options, undefined);
  assert.throws(() => runtimeInfo("n", new Uint8Array([0xff])), { code: "ERR_INVALID_ARGUMENT" });
});
