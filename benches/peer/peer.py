"""Times both sides in turn, row by row; prints a Markdown table and writes JSON. Started by run.sh."""

import argparse
import json
import os
import re
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

from rows import TABLE
from sides import Ours, SideError, Theirs, machine

# What is compared on each device: our precision and PyTorch's mode.
PAIRS = {
    "cpu": [("f32", "eager"), ("bf16", "autocast")],
    "cuda": [("f32", "eager"), ("bf16", "autocast"), ("bf16", "compile")],
}
MEBIBYTE = 1 << 20
# What keeps each side from using wider vectors: our kernels, MKL, PyTorch's own and oneDNN's.
AVX2 = {"PEFT_OPS": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def measure(row, precision, mode, ours, theirs, shipped, heap, args):
    """Times and memory of one row on both sides."""
    opened = theirs.ask("open", row=row.theirs(), mode=mode)
    if shipped:
        shipped.ask("open", row=row.theirs(), mode=mode)
        shipped.ask("time", warmup=args.warmup, steps=1)
    # The first round warms up both sides and tells how many steps make a round, and how many rounds the row needs: what
    # disturbs a shared machine for a second or two should not be most of what is timed.
    first = theirs.ask("time", warmup=args.warmup, steps=1)["seconds"][0]
    steps = max(1, min(5, round(args.seconds / first)))
    rounds = max(args.rounds, round(args.row_seconds / (steps * first)))
    seconds = {"ours": [], "theirs": [], "shipped": []}
    report = ours.open(row, precision, args.warmup, steps)
    if row.method and report["trainable"] != opened["trainable"]:
        raise SideError(f"trainable parameters differ: {report['trainable']} and {opened['trainable']}")
    key = "seconds" if row.method else "inference_seconds"
    for _ in range(rounds):
        seconds["ours"].append(statistics.median(ours.again()[key]))
        for name, side in (("theirs", theirs), ("shipped", shipped)):
            if side:
                seconds[name].append(statistics.median(side.ask("time", warmup=0, steps=steps)["seconds"]))
    ours.close()
    memory = {"above_bytes": None, "kept_bytes": None}
    if heap:
        if heap is not theirs:
            heap.ask("open", row=row.theirs(), mode=mode)
        memory = heap.ask("memory", steps=2)
    above = report["peak_bytes"] - report["weights_bytes"] - report["batch_bytes"]
    result = {
        "row": row.id,
        "batch": row.backbone.batch,
        "ours": {
            "precision": precision,
            "seconds": seconds["ours"],
            "median": statistics.median(seconds["ours"]),
            "above_bytes": above,
            "kept_bytes": report["kept_bytes"] or 0,
            "gflop_per_step": report["gflop_per_step"] if row.method else None,
        },
        "theirs": {"mode": mode, "seconds": seconds["theirs"], "median": statistics.median(seconds["theirs"]), **memory},
        "trainable": report["trainable"],
        "steps": steps,
        "limit": row.limit,
        "level": report["level"],
        "cache_bytes": report["cache_bytes"],
    }
    result["ratio"] = result["ours"]["median"] / result["theirs"]["median"]
    if shipped:
        median = statistics.median(seconds["shipped"])
        result["shipped"] = {"seconds": seconds["shipped"], "median": median, "ratio": result["ours"]["median"] / median}
    return result


TIMES = ["row", "batch", "ours ms", "PyTorch ms", "ratio"]
MEMORY = ["peak MiB, ours", "PyTorch", "kept MiB, ours", "PyTorch"]
SHIPPED = ["PyTorch as shipped ms", "ratio"]


def line(result, memory: bool) -> str:
    ours, theirs = result["ours"], result["theirs"]
    milliseconds = lambda side: f"{1000 * side['median']:.0f}"
    mode = "" if theirs["mode"] == "eager" else f" (bf16, {theirs['mode']})"
    cells = [result["row"] + mode, str(result["batch"]), milliseconds(ours), milliseconds(theirs), f"{result['ratio']:.2f}"]
    if memory:
        sides = [(key, side) for key in ("above_bytes", "kept_bytes") for side in (ours, theirs)]
        cells += [f"{side[key] / MEBIBYTE:.0f}" for key, side in sides]
    if shipped := result.get("shipped"):
        cells += [milliseconds(shipped), f"{shipped['ratio']:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runner", required=True, help="a built runner")
    parser.add_argument("--python", default=sys.executable, help="a Python with PyTorch, timm and peft")
    parser.add_argument("--heap", help="count.so; needed on the CPU")
    parser.add_argument("--preload", action="append", default=[], help="a library for PyTorch's process: vendor.so")
    parser.add_argument("--device", choices=PAIRS, default="cpu")
    parser.add_argument("--precision", choices=("f32", "bf16", "all"), help="f32 by default on the CPU, else all")
    parser.add_argument("--level", choices=("best", "avx2"), default="best", help="the widest vectors on both sides, on the CPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shipped", action="store_true", help="also time PyTorch without the preloaded library, in turn")
    parser.add_argument("--times", action="store_true", help="measure no memory")
    parser.add_argument("--only", default="", help="a regular expression over rows such as vit-tiny/lora")
    parser.add_argument("--batch", type=int, help="instead of the rows' own batches, which leave a large GPU idle")
    parser.add_argument("--rounds", type=int, default=5, help="least number of rounds of a row")
    parser.add_argument("--seconds", type=float, default=0.6, help="rough length of a side's part of a round")
    parser.add_argument("--row-seconds", type=float, default=4.0, help="rough least time of a side in a row, in more rounds if need be")
    parser.add_argument("--warmup", type=int, default=1, help="steps of each side before its first round")
    parser.add_argument("--out", type=Path, default=Path("peer.json"))
    args = parser.parse_args()

    rows = [row for row in TABLE if re.search(args.only, row.id)]
    if args.batch:
        rows = [replace(row, backbone=replace(row.backbone, batch=args.batch)) for row in rows]
    if not rows:
        names = "\n  ".join(row.id for row in TABLE)
        parser.error(f"--only: no row matches {args.only!r}; there are:\n  {names}")
    precision = args.precision or ("f32" if args.device == "cpu" else "all")
    pairs = [pair for pair in PAIRS[args.device] if precision in ("all", pair[0])]
    if args.level == "avx2":
        os.environ.update(AVX2)
    start = time.time()
    ours = Ours(args.runner, args.device, args.threads)
    theirs = Theirs(args.python, args.device, args.threads, args.preload)
    shipped = Theirs(args.python, args.device, args.threads) if args.shipped and args.preload else None
    heap = theirs if args.device == "cuda" else None
    if not args.times and not heap:
        heap = Theirs(args.python, "cpu", args.threads, [args.heap, *args.preload])
    about = {**machine(), **theirs.about, "threads": args.threads, "rounds": args.rounds, "preload": args.preload}
    kinds = " and ".join(dict.fromkeys(kind for kind, _ in pairs))
    where = f"{args.threads} threads, {kinds}" if args.device == "cpu" else about["device"]
    mkl = ", MKL with all instructions of the processor" if args.preload else ""
    level = ", AVX2 on both sides" if args.level == "avx2" else mkl
    print(f"{where}, PyTorch {about['torch']}{level}, medians of {args.rounds} rounds or more in turn\n")
    columns = TIMES + ([] if args.times else MEMORY) + (SHIPPED if shipped else [])
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)
    results, failed = [], False
    for row in rows:
        for kind, mode in pairs:
            try:
                results.append(measure(row, kind, mode, ours, theirs, shipped, heap, args))
                print(line(results[-1], not args.times), flush=True)
            except SideError as e:
                failed = True
                print(f"| {row.id} | {row.backbone.batch} | {mode} | {e} |", flush=True)
    ours.close()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"about": about, "rows": results}, indent=1) + "\n")
    over = [r["row"] for r in results if r["ratio"] > r["limit"]]
    heavy = [] if args.times else [r["row"] for r in results if r["ours"]["above_bytes"] > r["theirs"]["above_bytes"]]
    print(f"\n{len(results)} rows in {time.time() - start:.0f} s, written to {args.out}", file=sys.stderr)
    print(f"slower than their limit: {', '.join(over) or 'none'}", file=sys.stderr)
    print(f"more memory than PyTorch: {', '.join(heavy) or 'none'}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
