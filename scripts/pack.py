#!/usr/bin/env python3
"""Packs a program that is built already as the wheel that maturin would build, without compiling anything.

    scripts/pack.py target/release/runner --out dist

For trying out an installation, as scripts/first-hour.sh does it. Releases are built by maturin, which also says which systems a
wheel runs on; this wheel is for the system it was packed on.
"""

import argparse
import base64
import hashlib
import pathlib
import re
import subprocess
import sysconfig
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default="dist")
    args = parser.parse_args()
    version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    said = subprocess.run([args.program, "--version"], capture_output=True, text=True, check=True).stdout
    if version not in said:
        raise SystemExit(f"{args.program} says {said.strip()!r}; expected version {version}")
    name = f"peft_runner-{version}"
    tag = f"py3-none-{re.sub('[-.]', '_', sysconfig.get_platform())}"
    metadata = f"Metadata-Version: 2.1\nName: peft-runner\nVersion: {version}\nLicense: MIT\nRequires-Python: >=3.9\n"
    files = {
        f"{name}.data/scripts/runner": args.program.read_bytes(),
        f"{name}.dist-info/METADATA": metadata.encode(),
        f"{name}.dist-info/WHEEL": f"Wheel-Version: 1.0\nGenerator: pack.py\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
        f"{name}.dist-info/licenses/LICENSE": (ROOT / "LICENSE").read_bytes(),
    }
    record = f"{name}.dist-info/RECORD"
    lines = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}\n")
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    args.out.mkdir(parents=True, exist_ok=True)
    wheel = args.out / f"{name}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if "scripts" in path else 0o100644) << 16
            archive.writestr(entry, content)
    print(wheel)


main()
