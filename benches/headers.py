#!/usr/bin/env python3
"""Runs the commands in the headers of the shipped experiments again and writes their results into them.

    benches/headers.py [NAME...]     these configs, such as peft/ap, or all of configs/peft and the quickstart

Build first (`cargo build --release`) and leave the machine alone meanwhile, since a header states the time too. Headers
without a figure, of experiments that need weights or data from elsewhere, stay as they are.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tables import ROOT, machine

HEADER = re.compile(r"^# +(?:runner )(--config .+)\n# Result: (?!none was).+$", re.MULTILINE)


def processor() -> str:
    """The processor in few words: its name, and its widest vectors."""
    model, vectors = machine().split(", ")[:2]
    name = re.sub(r"\((R|TM)\)| Processor| family.*", "", model)
    return f"{name}, {vectors}"


def main():
    names = sys.argv[1:] or ["quickstart", *(f"peft/{path.stem}" for path in sorted((ROOT / "configs/peft").glob("*.yaml")))]
    for name in names:
        path = ROOT / f"configs/{name}.yaml"
        text = path.read_text()
        header = HEADER.search(text)
        if header is None:
            print(f"{name}: no figure")
            continue
        with tempfile.TemporaryDirectory() as runs:
            command = [ROOT / "target/release/runner", *header[1].split(), "--device", "cpu", "--runs", runs]
            start = time.monotonic()
            subprocess.run(command, check=True, capture_output=True)
            seconds = max(1, round(time.monotonic() - start))
            [summary] = Path(runs).glob("*/*/summary.json")
            top1 = 100 * json.loads(summary.read_text())["test"]["top1"]
        unit = "second" if seconds == 1 else "seconds"
        command = header[0].splitlines()[0]
        result = f"# Result: {top1:.2f} % test top-1 after {seconds} {unit} on two cores ({processor()})."
        path.write_text(text.replace(header[0], f"{command}\n{result}"))
        print(f"{name}: {top1:.2f} %, {seconds} s", flush=True)


if __name__ == "__main__":
    main()
