/**
 * `npm run package`: what is in the Debian package and the tarball, that equal inputs give equal bytes, and that Debian's
 * tools and the shells take what is in it.
 */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { copyright } from "../../../scripts/package/documents.ts";
import { VERSION } from "../../../src/base/version.ts";
import { repositoryRoot } from "../../harness/paths.ts";
import { describeResult, run, runOk } from "../../harness/run.ts";

const DEB = `caisson_${VERSION}_amd64.deb`;
const TARBALL = `caisson-${VERSION}-linux-x64.tar.gz`;
const EPOCH = 1_700_000_000;

let dir = "";
before(async () => {
  dir = mkdtempSync(join(tmpdir(), "caisson-package-test-"));
  for (const name of ["one", "two"]) await build(name);
  await runOk(["dpkg-deb", "-R", join(dir, "one", DEB), join(dir, "deb")]);
  mkdirSync(join(dir, "tar"));
  await runOk(["tar", "-C", join(dir, "tar"), "-xf", join(dir, "one", TARBALL)]);
});
after(() => rmSync(dir, { recursive: true, force: true }));

/** Builds into the directory `name` of ours. */
async function build(name: string, ...options: string[]): Promise<void> {
  const script = join(repositoryRoot, "scripts/package.ts");
  await runOk([process.execPath, "--import", "tsx", script, "--output", join(dir, name), ...options], {
    cwd: repositoryRoot,
    env: { ...process.env, SOURCE_DATE_EPOCH: String(EPOCH) },
    timeoutMs: 120_000,
  });
}

/** Paths of all files and links below `tree`, sorted. */
function filesBelow(tree: string): string[] {
  return readdirSync(tree, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(tree.length))
    .filter((path) => !path.startsWith("/DEBIAN/"))
    .sort();
}

test("two builds give the same bytes", () => {
  for (const name of [DEB, TARBALL]) {
    const [one, two] = ["one", "two"].map((build) => readFileSync(join(dir, build, name)));
    assert.ok(one !== undefined && two !== undefined && one.equals(two), `${name} differs`);
  }
});

test("the tarball has the files of the package", () => {
  assert.deepEqual(filesBelow(join(dir, "tar")), filesBelow(join(dir, "deb")));
});

test("everything belongs to root and carries the given time", async () => {
  const { stdout } = await runOk(["tar", "--full-time", "--utc", "-tvf", join(dir, "one", TARBALL)]);
  const time = new Date(EPOCH * 1000).toISOString().slice(0, 19).replace("T", " ");
  for (const line of stdout.trim().split("\n")) {
    // Links have the time of their making on disk; tar gives them that of --mtime.
    assert.match(line, new RegExp(`^\\S+ 0/0 +\\d+ ${time} `), line);
  }
});

test("everything that belongs to a host of pods is in it", () => {
  const share = "/usr/share/caisson";
  const completions = ["shim", "osbuilder"].flatMap((name) => [
    `/usr/share/bash-completion/completions/${name}`,
    `/usr/share/zsh/vendor-completions/_${name}`,
    `/usr/share/fish/vendor_completions.d/${name}.fish`,
  ]);
  const files = filesBelow(join(dir, "deb"));
  for (const path of [
    ...["containerd-shim-caisson-v2", "shim", "osbuilder"].map((name) => `/usr/bin/${name}`),
    ...["guest/agent", "native/caisson.node", "lib/shim-server.cjs"].map(
      (name) => `/usr/lib/caisson/${name}`,
    ),
    ...["defaults/configuration.toml", "crio/50-caisson"].map((name) => `${share}/${name}`),
    ...["v2", "v3"].map((version) => `${share}/containerd/caisson-${version}.toml`),
    ...["osbuilder-generate", "template"].map((name) => `/usr/lib/systemd/system/caisson-${name}.service`),
    ...completions,
  ]) {
    assert.ok(files.includes(path), path);
  }
});

test("each program has a link in /usr/bin, an interpreter by path, and a man page", () => {
  const programs = readdirSync(join(repositoryRoot, "dist/bin"));
  assert.ok(programs.length >= 3);
  const files = filesBelow(join(dir, "deb"));
  for (const name of programs) {
    assert.ok(files.includes(`/usr/bin/${name}`), name);
    assert.ok(
      files.some((path) => path.startsWith("/usr/share/man/") && path.includes(`/${name}.`)),
      name,
    );
    // The launcher is machine code; the program that it hands over to is not.
    const program = readFileSync(join(dir, "deb/usr/bin", name), "latin1");
    const launched = join(dir, `deb/usr/lib/caisson/lib/${name}.cjs`);
    const script = program.startsWith("\x7fELF") ? readFileSync(launched, "latin1") : program;
    assert.equal(script.split("\n", 1)[0], "#!/usr/bin/node");
    if (script !== program) assert.equal(statSync(launched).mode & 0o777, 0o755);
  }
});

test("the installed programs find their parts and run", async () => {
  const library = join(dir, "deb/usr/lib/caisson");
  await runOk([process.execPath, join(library, "lib/code-cache.mjs"), "refresh", library]);
  for (const name of ["shim-server.js.cache", "shim-server.snapshot", "shim-server.snapshot.key"])
    assert.ok(readdirSync(join(library, "lib")).includes(name), name);
  const shim = await runOk([process.execPath, join(dir, "deb/usr/bin/shim"), "env", "--json"]);
  const { Runtime } = JSON.parse(shim.stdout) as { Runtime: Record<string, string> };
  assert.equal(Runtime.Path, join(library, "bin/containerd-shim-caisson-v2"));
  const version = await runOk([process.execPath, join(library, "lib/containerd-shim-caisson-v2.cjs"), "-v"]);
  assert.match(version.stdout, new RegExp(`Version: +${VERSION}`));
});

test("control names the version and a Node that is new enough", () => {
  const control = readFileSync(join(dir, "deb/DEBIAN/control"), "utf8");
  assert.match(control, new RegExp(`^Version: ${VERSION}$`, "m"));
  assert.match(control, /^Depends: .*\bnodejs \(>= 20\.5\)/m);
});

test("the copyright file names every package that is bundled", () => {
  const text = readFileSync(join(dir, "deb/usr/share/doc/caisson/copyright"), "utf8");
  const bundled: string[] = JSON.parse(readFileSync(join(repositoryRoot, "dist/bundled.json"), "utf8"));
  for (const directory of bundled) {
    assert.ok(text.includes(`npm package ${directory.replace(/^.*node_modules\//, "")} `), directory);
  }
});

test("the text of Debian's own copy of a licence is left out wherever it comes, as in Node's", () => {
  const apache = readFileSync("/usr/share/common-licenses/Apache-2.0", "utf8");
  const licence = join(dir, "LICENSE");
  writeFileSync(licence, `First part\n${apache}\nSecond part\n${apache}\nThird part\n`);
  const text = copyright(repositoryRoot, { program: "", licence });
  const own = text.slice(text.indexOf("First part"));
  assert.equal(own.match(/^Apache License 2\.0: its text is in /gm)?.length, 2, own);
  assert.match(own, /Second part.*Third part/s);
  assert.doesNotMatch(text, /TERMS AND CONDITIONS FOR USE/);
});

test("the maintainer script takes the interpreter from a program that names one", () => {
  const script = readFileSync(join(dir, "deb/DEBIAN/postinst"), "utf8");
  const [, program] = /node=\$\(sed .* \$LIBRARY\/(\S+)\)/.exec(script) ?? [];
  assert.ok(program !== undefined, script);
  const [line] = readFileSync(join(dir, "deb/usr/lib/caisson", program), "latin1").split("\n", 1);
  assert.equal(line, "#!/usr/bin/node");
});

async function lintian(file: string): Promise<void> {
  const result = await run(["lintian", "--fail-on", "error,warning", file], { timeoutMs: 120_000 });
  assert.equal(result.code, 0, describeResult(result));
  assert.equal(result.stdout, "");
}

test("lintian has nothing to say", () => lintian(join(dir, "one", DEB)));

test("lintian has nothing to say about the package with its own Node", async () => {
  await build("with-node", "--with-node");
  await lintian(join(dir, "with-node", DEB.replace("_", "-with-node_")));
});

test("the man pages render without a warning", async () => {
  for (const path of filesBelow(join(dir, "deb")).filter((name) => name.startsWith("/usr/share/man/"))) {
    const page = join(dir, "deb", path);
    const env = { ...process.env, LC_ALL: "C.UTF-8", MANWIDTH: "100" };
    const { stdout, stderr } = await runOk(["man", "--warnings", "-l", "-Tutf8", page], { env });
    assert.equal(stderr, "", page);
    const text = stdout.replaceAll(/.[\b]/g, ""); // bold and underlined as on a printer
    assert.match(text, /NAME.*SYNOPSIS.*DESCRIPTION/s, page);
  }
});

/** Says, in the shell's own way, what completes the line "shim ch", from the files where the shell looks for them. */
const COMPLETING: Readonly<Record<string, (share: string) => readonly string[]>> = {
  bash: (share) => [
    "--norc",
    "-ec",
    `source ${share}/bash-completion/completions/shim
complete -p shim | grep -q -- '-F _shim'
COMP_WORDS=(shim ch) COMP_CWORD=1
_shim
echo "$COMPREPLY"`,
  ],
  // In a pseudo-terminal: zsh completes only what is being typed.
  zsh: (share) => [
    "-fc",
    String.raw`zmodload zsh/zpty
zpty -b shell zsh -f -i
zpty -w shell "PS1=; fpath=(${share}/zsh/vendor-completions \$fpath); autoload -Uz compinit; compinit -u -D"
zpty -w shell 'shim() { print completed=$1; }; print rea""dy'
zpty -r shell output $'*ready\r\n*'
zpty -w -n shell $'shim ch\t\n'
zpty -r shell output '*completed=*'$'\n'
[[ $output =~ 'completed=([a-z]+)' ]] && print $match[1]
zpty -d shell`,
  ],
  // By XDG_DATA_DIRS.
  fish: () => ["-c", `complete -C "shim ch" | string match -r "^[a-z]+"`],
};

for (const [shell, argv] of Object.entries(COMPLETING)) {
  test(`${shell} loads the completion`, async () => {
    const usr = join(dir, "deb/usr");
    const env = {
      ...process.env,
      PATH: `${usr}/bin:${process.env.PATH}`,
      XDG_DATA_DIRS: `${usr}/share`,
      HOME: join(dir, "home"), // fish writes there
      TERM: "dumb",
    };
    const result = await run([shell, ...argv(`${usr}/share`)], { env });
    assert.equal(result.stdout.trim(), "check", describeResult(result));
  });
}
