import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { cgroupPlace } from "../../../src/resources/cgroup/cgroups-path.ts";
import { ownDirectory, parseHierarchies } from "../../../src/resources/cgroup/hierarchies.ts";
import { scopeArguments } from "../../../src/resources/cgroup/systemd-scope.ts";

test("cgroupPlace() takes a path as it is, below the root", () => {
  const path = (text: string) => cgroupPlace(text)?.path;
  assert.equal(path("/kubepods/burstable/pod1-2/abc"), "/kubepods/burstable/pod1-2/abc");
  assert.equal(path("default/x"), "/default/x");
  assert.equal(path("//a/./b/"), "/a/b");
  assert.equal(path("/a:b/c"), "/a:b/c");
  assert.deepEqual(
    [cgroupPlace(undefined), cgroupPlace(""), cgroupPlace("/")],
    [undefined, undefined, undefined],
  );
});

test("cgroupPlace() turns slice, prefix and name into systemd's directories", () => {
  assert.deepEqual(cgroupPlace("kubepods-burstable-pod1_2.slice:cri-containerd:abc"), {
    path: "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope",
    scope: { slice: "kubepods-burstable-pod1_2.slice", unit: "cri-containerd-abc.scope" },
  });
  assert.equal(cgroupPlace(":docker:abc")?.path, "/system.slice/docker-abc.scope");
  assert.equal(cgroupPlace("-.slice:crio:abc")?.path, "/crio-abc.scope");
});

test("cgroupPlace() refuses what leads elsewhere", () => {
  for (const text of ["/a/../../b", "a--b.slice:x:y", "-a.slice:x:y", "a:x:y", "a.slice:x:", "/a\nb"]) {
    assert.throws(
      () => cgroupPlace(text),
      (error) => error instanceof SandboxError && error.code === "ERR_SPEC",
      text,
    );
  }
});

const v2 =
  "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot";
const hybrid = `31 23 0:28 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:31 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct`;

test("parseHierarchies() finds the one of version 2, and all of a hybrid host once", () => {
  const { mountPoint, ...rest } = parseHierarchies(v2)[0] ?? assert.fail("none");
  assert.deepEqual([mountPoint, rest], ["/sys/fs/cgroup", { version: 2, root: "/", controllers: [] }]);
  assert.deepEqual(
    parseHierarchies(hybrid).map((it) => [it.version, it.mountPoint, it.controllers.join()]),
    [
      [2, "/sys/fs/cgroup/unified", ""],
      [1, "/sys/fs/cgroup/systemd", "name=systemd"],
      [1, "/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"],
    ],
  );
  assert.deepEqual(parseHierarchies("nonsense\n1 2 3\n"), []);
});

test("ownDirectory() is where a process is, also where the host is itself a container", () => {
  const own = "5:cpu,cpuacct:/docker/1/a:b\n1:name=systemd:/\n0::/../outside\n";
  assert.deepEqual(
    parseHierarchies(hybrid).map((hierarchy) => ownDirectory(hierarchy, own)),
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cpu,cpuacct/docker/1/a:b"],
  );
  const [nested] = parseHierarchies("34 31 0:31 /docker/1 /cg rw - cgroup cgroup rw,cpu,cpuacct");
  assert.ok(nested);
  assert.equal(ownDirectory(nested, own), "/cg/a:b");
  assert.equal(ownDirectory(nested, "5:cpu,cpuacct:/docker/1"), "/cg");
});

test("a scope is delegated, in the slice that was asked for", () => {
  assert.deepEqual(scopeArguments({ slice: "a.slice", unit: "x-1.scope" }).slice(0, 7), [
    ...["--scope", "--quiet", "--collect", "--slice=a.slice", "--unit=x-1.scope"],
    ...["--property=Delegate=yes", "--property=DefaultDependencies=no"],
  ]);
});
