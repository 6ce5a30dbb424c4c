"""Measures what the prefix cache gains: the same trial with and without it, and in PyTorch without a cache. Started by
`run.sh cache`.

The images are written at the size that the backbone takes, uncompressed, so that decoding and resizing cost next to nothing;
PyTorch has them in memory. Without the cache every epoch runs the whole network; with it, an epoch after the first runs only
the part above the first cut. The gain is compared with the one that the floating-point count predicts.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy

from rows import Backbone, Row
from sides import Theirs, machine

SIZE, CLASSES, BATCH, EPOCHS = 224, 10, 16, 5
SHARE = 0.8  # The least share of the predicted gain.


@dataclass(frozen=True)
class Trial:
    row: Row
    images: int  # Per epoch; fewer where a step is long.
    least: float | None = None  # The gain that must be reached where the count predicts next to no time.


def trial(name, family, variant, method, images, least=None):
    return Trial(Row(Backbone(name, family, variant, BATCH, 1.0), method["name"] + name_of(method), method), images, least)


def name_of(method):
    return "".join(f" {boundary}" for boundary in method.get("boundaries", []))


TRIALS = [
    trial("vit-tiny", "vit", "vit_tiny_patch16_224", {"name": "linear-probe"}, 320, 50.0),
    trial("resnet101", "resnet", "resnet101", {"name": "ap", "boundaries": [-2]}, 96),
    trial("resnet101", "resnet", "resnet101", {"name": "ap", "boundaries": [-3]}, 96),
    trial("resnet50", "resnet", "resnet50", {"name": "ap", "boundaries": [-3]}, 160),
]


def write_images(root: Path, images: int):
    """Writes `train/`, `val/` and `test/` with a folder per class: smooth random images, one batch for each of the last two."""
    generator = numpy.random.default_rng(0)
    for split, count in [("train", images), ("val", BATCH), ("test", BATCH)]:
        for index in range(count):
            folder = root / split / str(index % CLASSES)
            folder.mkdir(parents=True, exist_ok=True)
            coarse = generator.integers(0, 256, (SIZE // 32, SIZE // 32, 3), dtype=numpy.uint8)
            pixels = coarse.repeat(32, axis=0).repeat(32, axis=1)
            (folder / f"{index}.ppm").write_bytes(b"P6 %d %d 255\n" % (SIZE, SIZE) + pixels.tobytes())


def config(row: Row, root: Path, cache: str) -> dict:
    b = row.backbone
    return {
        "name": "cache",
        "backbone": {"name": b.family, "variant": b.variant, "weights": None, "crop_pct": 1.0},
        "method": row.method,
        "dataset": {"name": "folder", "root": str(root)},
        "recipe": {"optimizer": {"name": "adamw", "lr": 1e-4}, "epochs": EPOCHS, "batch_size": BATCH, "select": "last"},
        "prefix_cache": cache,
    }


def run_ours(args, row, root, cache) -> dict:
    with tempfile.TemporaryDirectory() as runs:
        path = Path(runs) / "trial.yaml"
        path.write_text(json.dumps(config(row, root, cache)))
        command = [args.runner, "--config", str(path), "--runs", runs, "--device", "cpu", "--threads", str(args.threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{row.id}: {done.stderr.strip().splitlines()[-1]}")
        (summary,) = Path(runs).glob("cache/*/summary.json")
        summary = json.loads(summary.read_text())
    return {
        "epochs": [epoch["seconds"] for epoch in summary["history"]],
        "fill": summary["time"]["cache_seconds"],
        "to_fifth": summary["time"]["total_seconds"] + summary["time"]["cache_seconds"],
        "losses": [epoch["train_loss"] for epoch in summary["history"]],
        "cache_bytes": summary["memory"]["cache_bytes"],
    }


def predicted(args, row, root) -> float:
    """The gain by floating-point count: a whole step over its part outside the frozen prefix."""
    path = root / "profile.yaml"
    path.write_text(json.dumps(config(row, root, "off")))
    command = [args.runner, "profile", "--config", str(path), "--device", "cpu", "--format", "json", "--warmup", "0", "--steps", "1"]
    flops = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["flops_per_image"]
    return flops["step"] / (flops["step"] - flops["prefix"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runner", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="rounds in which the sides take turns")
    parser.add_argument("--only", default="")
    parser.add_argument("--preload", action="append", default=[], help="a library for PyTorch's process: vendor.so")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    theirs = Theirs(sys.executable, "cpu", args.threads, args.preload)
    about = {**machine(), **theirs.about, "threads": args.threads, "rounds": args.rounds, "batch": BATCH}
    rounds = f"medians of {args.rounds} rounds" if args.rounds > 1 else "one round"
    print(f"{args.threads} threads, f32, batch {BATCH}, {SIZE} pixels, random weights, PyTorch {about['torch']}, epochs 2 to {EPOCHS}, {rounds}\n")
    print("| trial | images | s/epoch off | memory | PyTorch | gain | predicted | share | s to epoch 5 off | memory | PyTorch |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    results, short = [], []
    for one in TRIALS:
        row = one.row
        if not re.search(args.only, row.id):
            continue
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_images(root, one.images)
            expected = predicted(args, row, root)
            rounds = {"off": [], "memory": [], "theirs": []}
            for _ in range(args.rounds):
                for cache in ("off", "memory"):
                    rounds[cache].append(run_ours(args, row, root, cache))
                rounds["theirs"].append(theirs.ask("epochs", row=row.theirs(), images=one.images, validation=BATCH, epochs=EPOCHS))
        if rounds["off"][0]["losses"] != rounds["memory"][0]["losses"]:
            sys.exit(f"{row.id}: the losses with and without the cache differ")
        later = {side: statistics.median(s for r in all for s in r["epochs"][1:]) for side, all in rounds.items()}
        fifth = {side: statistics.median(r["to_fifth"] for r in all) for side, all in rounds.items()}
        gain = later["off"] / later["memory"]
        wanted = one.least or SHARE * expected
        if gain < wanted:
            short.append(f"{row.id}: {gain:.1f} of {wanted:.1f}")
        results.append({"trial": row.id, "images": one.images, "epoch_seconds": later, "to_fifth_seconds": fifth,
                        "gain": gain, "predicted": expected, "rounds": rounds})
        number = lambda value: f"{value:.1f}" if value < 100 else f"{value:.0f}"
        share = "" if one.least else f"{gain / expected:.2f}"
        cells = [row.id, str(one.images), *(f"{later[s]:.3f}" for s in rounds), number(gain), number(expected), share,
                 *(f"{fifth[s]:.1f}" for s in rounds)]
        print("| " + " | ".join(cells) + " |", flush=True)
    theirs.close()
    args.out.write_text(json.dumps({"about": about, "trials": results}, indent=1) + "\n")
    print(f"\nbelow {SHARE} of the predicted gain, or below 50 for linear-probe: {'; '.join(short) or 'none'}", file=sys.stderr)


if __name__ == "__main__":
    main()
