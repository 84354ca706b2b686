/** The texts that Debian expects in a package: change log, licences, and where lintian is wrong about it. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { BundledNode } from "./node.ts";

export const MAINTAINER = "Caisson maintainers <maintainers@caisson.invalid>";

/** @param epoch seconds since 1970 */
export function changelog(version: string, epoch: number): string {
  const date = new Date(epoch * 1000).toUTCString().replace("GMT", "+0000");
  return `caisson (${version}) unstable; urgency=medium

  * Built from the sources of this version; CHANGELOG.md says what changed.

 -- ${MAINTAINER}  ${date}
`;
}

/** Libraries that are linked into the agent, by the package that set-up unpacks into the sysroot. */
const AGENT_LIBRARIES = ["libquickjs", "libseccomp-dev", "libc6-dev"];

/** Our licence, then that of everything that is bundled or linked into the programs. @param root the repository */
export function copyright(root: string, node: BundledNode | undefined): string {
  const read = (path: string) => readFileSync(join(root, path), "utf8").trimEnd();
  const bundled: string[] = JSON.parse(read("dist/bundled.json"));
  const sections = [
    section("Caisson", read("LICENSE")),
    ...bundled.map((directory) => {
      const { name, version, license } = JSON.parse(read(join(directory, "package.json"))) as Record<
        string,
        string
      >;
      const file = readdirSync(join(root, directory)).find((entry) => /^licen[cs]e/i.test(entry));
      const text = file === undefined ? `Licence: ${license}` : read(join(directory, file));
      return section(`npm package ${name} ${version}, in the programs`, text);
    }),
    ...AGENT_LIBRARIES.map((name) =>
      section(
        `Debian package ${name}, in the guest agent`,
        read(`.cache/sysroot/usr/share/doc/${name}/copyright`),
      ),
    ),
  ];
  if (node !== undefined) {
    const licence = readFileSync(node.licence, "utf8").trimEnd();
    sections.push(section("Node.js, /usr/lib/caisson/bin/node", licence));
  }
  return `${sections.join("\n\n")}\n`;
}

function section(title: string, text: string): string {
  return `${"=".repeat(78)}\n${title}\n${"=".repeat(78)}\n\n${withoutApacheText(text)}`;
}

/** Debian systems have the text of this licence, and its packages refer to it. */
const withoutApacheText = (text: string): string =>
  text.replaceAll(
    /^ *Apache License\s+Version 2\.0.*?END OF TERMS AND CONDITIONS/gms,
    "Apache License 2.0: its text is in /usr/share/common-licenses/Apache-2.0.",
  );

/** Where lintian is wrong about the package. */
export const lintianOverrides = (withNode: boolean): string => (withNode ? general + ofNode : general);

const general = `# PID 1 of a guest that has no other file: there is nothing to link to.
caisson: statically-linked-binary [usr/lib/caisson/guest/agent]
# Runs for every container, for a millisecond: loading shared libraries would take longer than all that it does.
caisson: statically-linked-binary [usr/lib/caisson/bin/containerd-shim-caisson-v2]
# The image has to be there before whatever starts pods; all three are often started by hand, after the boot.
caisson: systemd-service-file-refers-to-unusual-wantedby-target containerd.service [usr/lib/systemd/system/caisson-osbuilder-generate.service]
caisson: systemd-service-file-refers-to-unusual-wantedby-target crio.service [usr/lib/systemd/system/caisson-osbuilder-generate.service]
caisson: systemd-service-file-refers-to-unusual-wantedby-target kubelet.service [usr/lib/systemd/system/caisson-osbuilder-generate.service]
`;

const ofNode = `# The Node that this variant brings is the build of nodejs.org.
caisson: embedded-library zlib [usr/lib/caisson/bin/node]
caisson: hardening-no-pie [usr/lib/caisson/bin/node]
caisson: missing-dep-for-interpreter /usr/lib/caisson/bin/node *
caisson: wrong-path-for-interpreter /usr/lib/caisson/bin/node *
# The address is in the text of a licence, which is theirs to change.
caisson: old-fsf-address-in-copyright-file
`;
