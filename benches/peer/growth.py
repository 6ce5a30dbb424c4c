"""Plots how a step of LoRA on ViT-Ti/16 grows with batch, depth, tokens and threads, beside PyTorch's: one SVG, and the numbers in
JSON beside it. Started by `run.sh growth`."""

import argparse
import json
import math
import os
import statistics
import sys
from dataclasses import replace
from pathlib import Path

from rows import METHODS, VIT_TINY, Row
from sides import Ours, Theirs, machine

SERIES = {
    "batch": [1, 4, 8, 16, 32],
    "depth": [2, 6, 12, 18],
    "tokens": [50, 101, 197, 401, 785],
    "threads": [1, 2, 4, 8, 16, 32],
}
SIDES = {"ours": ("#0072b2", ""), "PyTorch": ("#d55e00", "6 4")}


def rows(axis: str, cores: int):
    """The points of one series and their rows."""
    for value in SERIES[axis]:
        backbone, options, threads = VIT_TINY, {}, None
        match axis:
            case "batch":
                backbone = replace(VIT_TINY, batch=value)
            case "depth":
                options = {"depth": value}
            case "tokens":
                side = 16 * math.isqrt(value)
                backbone, options = replace(VIT_TINY, size=side, batch=8), {"img_size": side}
                value = (side // 16) ** 2 + 1
            case "threads":
                if value > cores:
                    return
                threads = value
        yield value, Row(backbone, f"{axis}-{value}", METHODS["lora"], options, threads)


def measure(row, ours, theirs, threads, rounds):
    theirs.ask("threads", threads=row.threads or threads)
    theirs.ask("open", row=row.theirs(), mode="eager")
    first = theirs.ask("time", warmup=1, steps=1)["seconds"][0]
    steps = max(1, min(5, round(0.5 / first)))
    ours.open(row, "f32", 1, steps)
    seconds = {"ours": [], "PyTorch": []}
    for _ in range(rounds):
        seconds["ours"].append(statistics.median(ours.again()["seconds"]))
        seconds["PyTorch"].append(statistics.median(theirs.ask("time", warmup=0, steps=steps)["seconds"]))
    ours.close()
    return {side: statistics.median(values) for side, values in seconds.items()}


WIDTH, HEIGHT, MARGIN = 420, 300, 56


def panel(axis, points, x0, y0) -> list[str]:
    """One plot with logarithmic axes, on which a power law is a straight line."""
    times = [1000 * seconds for _, both in points for seconds in both.values()]
    low, high = math.log10(min(times)) - 0.08, math.log10(max(times)) + 0.08
    left, right = math.log2(points[0][0]), math.log2(points[-1][0])
    wide, tall = WIDTH - MARGIN - 16, HEIGHT - 2 * 40

    def x(value):
        return x0 + MARGIN + wide * ((math.log2(value) - left) / (right - left) if right > left else 0.5)

    def y(milliseconds):
        return y0 + 40 + tall * (1 - (math.log10(milliseconds) - low) / (high - low))

    parts = [f'<text x="{x0 + MARGIN}" y="{y0 + 24}" class="title">step time against {axis}</text>']
    ticks = [m * 10**e for e in range(-1, 6) for m in (1, 2, 3, 5) if low <= math.log10(m * 10**e) <= high]
    for tick in ticks:
        parts.append(f'<line x1="{x0 + MARGIN}" x2="{x0 + MARGIN + wide}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" class="grid"/>')
        parts.append(f'<text x="{x0 + MARGIN - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g} ms</text>')
    for value, _ in points:
        parts.append(f'<text x="{x(value):.1f}" y="{y0 + 40 + tall + 18}" text-anchor="middle">{value}</text>')
    for side, (colour, dashes) in SIDES.items():
        line = " ".join(f"{x(value):.1f},{y(1000 * both[side]):.1f}" for value, both in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>')
        for value, both in points:
            at = f'{x(value):.1f}', f'{y(1000 * both[side]):.1f}'
            parts.append(f'<circle cx="{at[0]}" cy="{at[1]}" r="3.5" fill="{colour if side == "ours" else "white"}" '
                         f'stroke="{colour}" stroke-width="2"/>')
    return parts


def plot(series, title) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {2 * HEIGHT + 56}" font-family="sans-serif" font-size="12">',
        "<style>.title{font-size:14px;font-weight:bold}.grid{stroke:#ddd}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{MARGIN}" y="24">{title}</text>',
    ]
    for index, (side, (colour, dashes)) in enumerate(SIDES.items()):
        at = MARGIN + 110 * index
        parts.append(f'<line x1="{at}" x2="{at + 32}" y1="42" y2="42" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>')
        parts.append(f'<text x="{at + 38}" y="46">{side}</text>')
    for index, (axis, points) in enumerate(series.items()):
        parts += panel(axis, points, WIDTH * (index % 2), 56 + HEIGHT * (index // 2))
    return "\n".join([*parts, "</svg>\n"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runner", required=True)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preload", action="append", default=[], help="a library for PyTorch's process: vendor.so")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    axes = [axis for axis in SERIES if axis != "threads" or args.device == "cpu"]
    ours, theirs = Ours(args.runner, args.device, args.threads), Theirs(sys.executable, args.device, args.threads, args.preload)
    series = {}
    for axis in axes:
        series[axis] = []
        for value, row in rows(axis, cores):
            both = measure(row, ours, theirs, args.threads, args.rounds)
            series[axis].append((value, both))
            print(f"{axis} {value}: " + ", ".join(f"{side} {1000 * s:.1f} ms" for side, s in both.items()), flush=True)
    about = machine()
    title = f"LoRA of rank 10 on ViT-Ti/16, f32, {args.threads} threads; {about['processor']}; PyTorch {theirs.about['torch']}"
    title += ", MKL with all instructions of the processor" if args.preload else ""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(plot(series, title))
    args.out.with_suffix(".json").write_text(json.dumps({"about": about, "series": series}, indent=1) + "\n")
    theirs.close()


if __name__ == "__main__":
    main()
