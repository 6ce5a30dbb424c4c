#!/usr/bin/env python3
"""Measures the tables of the documentation and writes them into its pages.

    benches/tables.py [NAME...]      measure these tables, or all of them (about an hour), and write the pages
    benches/tables.py --write        write the pages from docs/performance.json without measuring
    benches/tables.py --list         the tables and their commands

A table is the Markdown that a command prints. It is kept in docs/performance.json with the command, the machine, the
date and the commit, and is quoted between `<!-- table: NAME -->` and `<!-- end -->` in one page. A test fails when page and
file differ (runner/tests/cli/documentation.rs).

Build first (`cargo build --release`) and leave the machine alone meanwhile. The tables
beside PyTorch need what benches/peer/run.sh and benches/loader/run.py need, and loader-small needs what benches/loader/small.py
needs. The tables of a GPU and of a CPU without AVX-512 are measured only when they are named.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs/performance.json"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

OF_PAPER = "vit-|resnet|swin|clip"
MODERN = "benches/peer/run.sh --rounds 3 --only 'dinov3|siglip|convnext'"
TABLES = {
    "digits": "cargo run --release --example digits",
    "cost": "benches/cost.sh target/release/runner",
    "rectangles": "benches/rectangles.sh target/release/runner",
    "peer": f"benches/peer/run.sh --rounds 3 --only '{OF_PAPER}'",
    "peer-at-avx2": f"benches/peer/run.sh --level avx2 --rounds 3 --only '{OF_PAPER}'",
    "peer-bf16": "benches/peer/run.sh --precision bf16 --rounds 3 --only vit-",
    "peer-modern": MODERN,
    "peer-benchmark": "benches/peer/run.sh --rounds 3 --only benchmark",
    "cache": "benches/peer/run.sh cache --only 'vit-tiny|resnet'",
    "cache-side": "benches/peer/run.sh cache --rounds 1 --only vit-base",
    "loader": "python3 benches/loader/run.py target/release/runner",
    "loader-small": "python3 benches/loader/small.py target/release/runner",
}
VIT_BASE = "BACKBONES=vit_base_patch16_224 METHODS='lora full-finetune' PRECISIONS=bf16"
ELSEWHERE = {
    # On a machine whose widest vectors are AVX2.
    "peer-avx2": f"benches/peer/run.sh --rounds 3 --only '{OF_PAPER}'",
    "peer-modern-avx2": MODERN,
    "gpu": "TORCH='eager sdpa' WARMUP=3 benches/cuda.sh target/release/runner",
    "gpu-burn": f"PEFT_OPS_CUDA=off {VIT_BASE} TORCH= WARMUP=3 benches/cuda.sh target/release/runner",
}


def caches() -> str:
    """The data caches of a core, by Linux's tables."""
    sizes = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction" and level in "12":
            sizes.append(size.replace("K", " KiB").replace("M", " MiB"))
    return f"caches of {' and '.join(sizes)}, " if sizes else ""


def machine() -> str:
    """The processor, its widest vectors, its caches, and the cores that this process may use."""
    text = Path("/proc/cpuinfo").read_text()
    field = lambda name: (re.search(rf"^{name}\s*: (.*)", text, re.MULTILINE) or ["", "unknown"])[1]
    flags = text.split()
    vectors = next((name for flag, name in [("avx512f", "AVX-512, "), ("avx2", "AVX2, ")] if flag in flags), "")
    # Virtual machines hide the model's name, not its number.
    model = f"{field('model name')} family {field('cpu family')} model {field('model')}"
    return f"{model}, {vectors}{caches()}{len(os.sched_getaffinity(0))} cores"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def parsed(markdown: str) -> dict:
    """The first table of a text, and the line above it, which says what was measured."""
    lines = [line for line in markdown.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if line.startswith("|")), None)
    if first is None:
        sys.exit(f"error: no table in\n{markdown}")
    table = [line for line in lines[first:] if line.startswith("|")]
    setting = lines[first - 1].removesuffix(":") if first else ""
    return {"setting": setting, "header": cells(table[0]), "rows": [cells(line) for line in table[2:]]}


def dumped(tables: dict) -> str:
    """JSON with one line for each row of a table."""
    text = json.dumps(tables, indent=1, ensure_ascii=False)
    cells = r'\[\s+("(?:[^"\\]|\\.)*"(?:,\s+"(?:[^"\\]|\\.)*")*)\s+\]'
    return re.sub(cells, lambda match: "[" + re.sub(r",\n\s+", ", ", match[1]) + "]", text) + "\n"


def measured(command: str) -> dict:
    start = time.time()
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"error: exit code {done.returncode} of {command}")
    print(f"{time.time() - start:.0f} s: {command}", file=sys.stderr)
    commit = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    about = {"command": command, "machine": machine(), "date": time.strftime("%Y-%m-%d"), "commit": commit.stdout.strip()}
    return about | parsed(done.stdout)


def rendered(table: dict) -> str:
    """What a page holds between the two marks."""
    place = f"{table['machine']}, {table['date']}, commit {table['commit']}"
    setting = f"{table['setting']}; " if table["setting"] else ""
    caption = f"{setting}`{table['command']}` ({place}):"
    rows = [table["header"], ["---"] * len(table["header"]), *table["rows"]]
    lines = ["|" + "|".join(row) + "|" if row[0] == "---" else "| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([caption, "", *lines])


def write_pages(tables: dict):
    for page in PAGES:
        old = page.read_text()

        def quoted(match):
            return f"{match[1]}\n{rendered(tables[match[2]])}\n<!-- end -->"

        new = re.sub(r"(<!-- table: ([\w-]+) -->)\n.*?<!-- end -->", quoted, old, flags=re.DOTALL)
        if new != old:
            page.write_text(new)
            print(f"{page.relative_to(ROOT)} is written", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TABLES | ELSEWHERE)}; default: all that this machine may have")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    parser.add_argument("--list", action="store_true", help="print the tables and their commands")
    args = parser.parse_args()
    commands = TABLES | ELSEWHERE
    if args.list:
        for name, command in commands.items():
            print(f"{name:<18}{command}")
        return
    if unknown := [name for name in args.names if name not in commands]:
        parser.error(f"unknown table {unknown[0]!r}; expected one of {', '.join(commands)}")
    tables = json.loads(FILE.read_text())
    for name in [] if args.write else args.names or TABLES:
        tables[name] = measured(commands[name])
        FILE.write_text(dumped(tables))
    write_pages(tables)


if __name__ == "__main__":
    main()
