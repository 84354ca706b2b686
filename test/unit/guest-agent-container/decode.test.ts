import assert from "node:assert/strict";
import { test } from "node:test";
import { exactIntegers, int64 } from "../../../guest-agent/src/container/decode.ts";
import {
  decodeContainerSpec,
  decodeProcessSpec,
  decodeResources,
} from "../../../guest-agent/src/container/oci-spec.ts";

test("integers beyond 2^53 stay exact, strings are not touched", () => {
  const source =
    '{"a":18446744073709551615,"b":-9223372036854775808,"c":"12345678901234567890","d":1.5,"e":[1234567890123456]}';
  assert.deepEqual(JSON.parse(exactIntegers(source)), {
    a: "18446744073709551615",
    b: "-9223372036854775808",
    c: "12345678901234567890",
    d: 1.5,
    e: ["1234567890123456"],
  });
  const tricky = '{"k\\"1234567890123456789":"x\\\\","n":12345678901234567890}';
  assert.deepEqual(JSON.parse(exactIntegers(tricky)), {
    'k"1234567890123456789': "x\\",
    n: "12345678901234567890",
  });
});

test("64-bit integers take both forms and nothing else", () => {
  assert.equal(int64(5), 5n);
  assert.equal(int64("18446744073709551615"), 2n ** 64n - 1n);
  for (const bad of [1.5, "x", "", "18446744073709551616", null, {}, 2 ** 60]) {
    assert.throws(() => int64(bad), /must be a 64-bit integer/);
  }
});

test("a spec with one large integer is exact everywhere", () => {
  const limit = (soft: string) => `{"type":"RLIMIT_CORE","soft":${soft},"hard":9007199254740993}`;
  const { rlimits, env } = decodeProcessSpec(
    `{"env":["N=12345678901234567890"],"rlimits":[${limit("18446744073709551615")},${limit("1234567890123456")}]}`,
  );
  assert.deepEqual(
    rlimits.map(({ soft, hard }) => [soft, hard]),
    [
      [2n ** 64n - 1n, 9007199254740993n],
      [1234567890123456n, 9007199254740993n],
    ],
  );
  assert.deepEqual(env, ["N=12345678901234567890"]);
  const error = /process\.rlimits\[0\]\.soft in the OCI spec must be a 64-bit integer/;
  for (const bad of ["1e300", "18446744073709551616", "1.5"]) {
    assert.throws(() => decodeProcessSpec(`{"rlimits":[${limit(bad)}]}`), error);
  }
});

test("a minimal spec has defaults", () => {
  const spec = decodeContainerSpec('{"process":{"args":["sh"]}}');
  assert.deepEqual(spec.process.args, ["sh"]);
  assert.deepEqual(spec.process.user, { uid: 0, gid: 0, umask: undefined, additionalGids: [] });
  assert.equal(spec.process.cwd, "/");
  assert.deepEqual(spec.linux.maskedPaths, []);
  assert.equal(spec.linux.resources, undefined);
});

test("null is absent, as Go writes it", () => {
  const spec = decodeContainerSpec(
    '{"process":{"args":null,"capabilities":null,"user":{"uid":1,"gid":2,"additionalGids":null}},"mounts":null,"linux":null}',
  );
  assert.deepEqual(spec.process.args, []);
  assert.equal(spec.process.capabilities, undefined);
  assert.deepEqual(spec.mounts, []);
});

test("unknown properties are ignored", () => {
  assert.doesNotThrow(() => decodeContainerSpec('{"process":{"future":1},"hooks":{},"windows":{}}'));
});

const wrong: readonly (readonly [json: string, error: RegExp])[] = [
  ["[", /the OCI spec is not valid JSON/],
  ["[]", /must be an object/],
  ["{}", /process in the OCI spec must be an object/],
  ['{"process":{"args":"sh"}}', /process\.args in the OCI spec must be a list/],
  ['{"process":{"args":[1]}}', /process\.args\[0\]/],
  ['{"process":{"args":["a\\u0000b"]}}', /process\.args\[0\].*NUL/],
  ['{"process":{"env":["A=1","B=\\u0000"]}}', /process\.env\[1\].*NUL/],
  ['{"process":{"capabilities":{"bounding":["CAP_\\u0000"]}}}', /capabilities\.bounding\[0\].*NUL/],
  ['{"process":{"capabilities":{"bounding":{}}}}', /capabilities\.bounding in the OCI spec must be a list/],
  ['{"process":{"user":{"uid":-1}}}', /process\.user\.uid/],
  ['{"process":{"user":{"uid":4294967296}}}', /process\.user\.uid/],
  ['{"process":{},"linux":{"sysctl":{"a":1}}}', /linux\.sysctl\["a"\]/],
  ['{"process":{},"mounts":[{"type":"x"}]}', /mounts\[0\]\.destination/],
  ['{"process":{},"linux":{"resources":{"memory":{"limit":"x"}}}}', /linux\.resources\.memory\.limit/],
];
for (const [json, error] of wrong) {
  test(`a wrong shape is refused by key: ${json}`, () => {
    assert.throws(() => decodeContainerSpec(json), error);
  });
}

test("processes and resources are decoded on their own too", () => {
  assert.equal(decodeProcessSpec('{"cwd":"/x"}').cwd, "/x");
  assert.throws(() => decodeProcessSpec('{"cwd":1}'), /process\.cwd/);
  assert.throws(() => decodeResources('{"pids":{"limit":[]}}'), /linux\.resources\.pids\.limit/);
});
