"""What is in an image: a software bill of materials (CycloneDX, JSON), and the same as a table on standard output.

sbom.py IMAGE FILE    the image's Python packages and Debian packages, listed from inside it, without network
"""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

# The tool is the one of this environment, brought along read-only; at the end of the path, so that it shadows nothing.
_PYTHON_PACKAGES = """
import runpy, sys
sys.path.append("/tools")
options = ["--short-PURLs", "--output-reproducible", "--gather-license-texts"]
sys.argv = ["cyclonedx-py", "environment", *options, "/opt/venv/bin/python"]
runpy.run_module("cyclonedx_py", run_name="__main__")
"""
_DEBIAN_PACKAGES = ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${Architecture}\n"]


def bill_of_materials(image: str) -> dict:
    """CycloneDX document of an image."""
    bill = json.loads(_inside(image, ["python", "-c", _PYTHON_PACKAGES]))
    about = json.loads(_output(["docker", "image", "inspect", image]))[0]
    labels = about["Config"]["Labels"]
    bill["metadata"]["component"] = {
        "type": "container",
        "bom-ref": "image",
        "name": labels["org.opencontainers.image.title"],
        "version": labels["org.opencontainers.image.version"],
        "hashes": [{"alg": "SHA-256", "content": about["Id"].removeprefix("sha256:")}],
    }
    for line in _inside(image, _DEBIAN_PACKAGES).splitlines():
        name, version, architecture = line.split("\t")
        purl = f"pkg:deb/debian/{name}@{version}?arch={architecture}"
        # Debian states licences as texts, not by name.
        licence = {"name": f"see /usr/share/doc/{name}/copyright"}
        component = {"type": "library", "name": name, "version": version, "licenses": [{"license": licence}]}
        bill["components"].append(component | {"bom-ref": purl, "purl": purl})
    return bill


def table(bill: dict) -> str:
    """Markdown: name, version, licence and where it comes from, a component a row."""
    rows = ["| package | version | licence | from |", "|---|---|---|---|"]
    for component in bill["components"]:
        names = [entry.get("expression") or _name(entry["license"]) for entry in component.get("licenses", ())]
        kind = component.get("purl", "").partition("/")[0].removeprefix("pkg:")
        rows.append(f"| {component['name']} | {component['version']} | {'; '.join(names) or 'not declared'} | {kind} |")
    return "\n".join(rows)


def _name(licence: dict) -> str:
    name = licence.get("id") or licence["name"]
    if name.startswith("declared license of"):  # its text is what the package declares
        name = licence["text"]["content"]
    return name.removeprefix("License :: OSI Approved :: ").splitlines()[0]


def _inside(image: str, command: list[str]) -> str:
    tools = f"{sysconfig.get_path('purelib')}:/tools:ro"
    return _output(["docker", "run", "--rm", "--network", "none", "--volume", tools, image, *command])


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    image, file = sys.argv[1:]
    bill = bill_of_materials(image)
    Path(file).write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    print(table(bill))
