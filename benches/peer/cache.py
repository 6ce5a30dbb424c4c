"""Measures what the prefix cache gains: the same trial with and without it, and in PyTorch without a cache. Started by
`run.sh cache`.

The images are written at the size that the backbone takes, uncompressed, so that decoding and resizing cost next to nothing;
PyTorch has them in memory. Without the cache every epoch runs the whole network; with it, an epoch after the first runs only
the part above the first cut. The gain is compared with the one that the floating-point count predicts. For a side network the
epoch from the cache is also compared with one of LoRA, which no cache helps.
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

SIZE, CLASSES, BATCH = 224, 10, 16
BUDGET = 12  # GiB of the cache: LST's rows are larger than the default allows.
SHARE = 0.8  # The least share of the predicted gain.


@dataclass(frozen=True)
class Trial:
    row: Row
    images: int  # Per epoch; fewer where a step is long.
    epochs: int = 5
    least: float | None = None  # The gain that must be reached where the count predicts next to no time.
    cached: bool = True  # Whether there is a prefix to cache.


def trial(name, family, variant, method, images, **more):
    return Trial(Row(Backbone(name, family, variant, BATCH, 1.0), method["name"] + name_of(method), method), images, **more)


def name_of(method):
    return "".join(f" {boundary}" for boundary in method.get("boundaries", []))


TRIALS = [
    trial("vit-tiny", "vit", "vit_tiny_patch16_224", {"name": "linear-probe"}, 320, least=50.0),
    trial("resnet101", "resnet", "resnet101", {"name": "ap", "boundaries": [-2]}, 96),
    trial("resnet101", "resnet", "resnet101", {"name": "ap", "boundaries": [-3]}, 96),
    trial("resnet50", "resnet", "resnet50", {"name": "ap", "boundaries": [-3]}, 160),
    # LoRA's epoch grows with the images; LST has as many as a task of VTAB-1k.
    trial("vit-base", "vit", "vit_base_patch16_224", {"name": "lora", "rank": 8}, 96, epochs=2, cached=False),
    trial("vit-base", "vit", "vit_base_patch16_224", {"name": "lst", "reduction": 8}, 1000, epochs=2),
    trial("vit-base", "vit", "vit_base_patch16_224", {"name": "vqt", "length": 1}, 96, epochs=2),
]
SIDE_NETWORKS = ("lst", "vqt")
MOST_OF_LORA = 0.1


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


def config(trial: Trial, root: Path, cache: str) -> dict:
    row, b = trial.row, trial.row.backbone
    return {
        "name": "cache",
        "backbone": {"name": b.family, "variant": b.variant, "weights": None, "crop_pct": 1.0},
        "method": row.method,
        "dataset": {"name": "folder", "root": str(root)},
        "recipe": {"optimizer": {"name": "adamw", "lr": 1e-4}, "epochs": trial.epochs, "batch_size": BATCH, "select": "last"},
        "prefix_cache": cache,
        "cache_budget_gib": BUDGET,
    }


def run_ours(args, trial, root, cache) -> dict:
    with tempfile.TemporaryDirectory() as runs:
        path = Path(runs) / "trial.yaml"
        path.write_text(json.dumps(config(trial, root, cache)))
        command = [args.runner, "--config", str(path), "--runs", runs, "--device", "cpu", "--threads", str(args.threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{trial.row.id}: {done.stderr.strip().splitlines()[-1]}")
        (summary,) = Path(runs).glob("cache/*/summary.json")
        summary = json.loads(summary.read_text())
    cached = summary["memory"]["cache_bytes"]
    if cache == "memory" and not cached:
        sys.exit(f"{trial.row.id}: nothing was cached")
    return {
        "epochs": [epoch["seconds"] for epoch in summary["history"]],
        "fill": summary["time"]["cache_seconds"],
        "to_end": summary["time"]["total_seconds"] + summary["time"]["cache_seconds"],
        "losses": [epoch["train_loss"] for epoch in summary["history"]],
        "cache_bytes": cached,
    }


def predicted(args, trial, root) -> float:
    """The gain by floating-point count: a whole step over its part outside the frozen prefix."""
    path = root / "profile.yaml"
    path.write_text(json.dumps(config(trial, root, "off")))
    command = [args.runner, "profile", "--config", str(path), "--device", "cpu", "--format", "json", "--warmup", "0", "--steps", "1"]
    flops = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["flops_per_image"]
    return flops["step"] / (flops["step"] - flops["prefix"])


def line(trial, result) -> str:
    seconds, in_all = result["epoch_seconds"], result["seconds_in_all"]
    number = lambda value: f"{value:.1f}" if value < 100 else f"{value:.0f}"
    gain, expected = result.get("gain"), result["predicted"]
    share = "" if gain is None or trial.least else f"{gain / expected:.2f}"
    of_lora = f"{result['of_lora']:.3f}" if "of_lora" in result else ""
    of = lambda sides, digits: [f"{sides[side]:.{digits}f}" if side in sides else "" for side in ("off", "memory", "theirs")]
    cells = [result["trial"], str(trial.images), str(trial.epochs), *of(seconds, 3), "" if gain is None else number(gain),
             number(expected), share, of_lora, *of(in_all, 1)]
    return "| " + " | ".join(cells) + " |"


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
    print(f"{args.threads} threads, f32, batch {BATCH}, {SIZE} pixels, random weights, PyTorch {about['torch']}, epochs from the second, {rounds}\n")
    print("| trial | images | epochs | s/epoch off | memory | PyTorch | gain | predicted | share | of LoRA's epoch | s in all off | memory | PyTorch |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    results, short, lora = [], [], None
    for one in TRIALS:
        row = one.row
        if not re.search(args.only, row.id):
            continue
        caches = ("off", "memory") if one.cached else ("off",)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_images(root, one.images)
            expected = predicted(args, one, root)
            rounds = {side: [] for side in (*caches, "theirs")}
            for _ in range(args.rounds):
                for cache in caches:
                    rounds[cache].append(run_ours(args, one, root, cache))
                asked = dict(images=one.images, validation=BATCH, epochs=one.epochs)
                rounds["theirs"].append(theirs.ask("epochs", row=row.theirs(), **asked))
        if one.cached and rounds["off"][0]["losses"] != rounds["memory"][0]["losses"]:
            sys.exit(f"{row.id}: the losses with and without the cache differ")
        later = {side: statistics.median(s for r in all for s in r["epochs"][1:]) for side, all in rounds.items()}
        in_all = {side: statistics.median(r["to_end"] for r in all) for side, all in rounds.items()}
        result = {"trial": row.id, "images": one.images, "epochs": one.epochs, "epoch_seconds": later, "seconds_in_all": in_all,
                  "predicted": expected, "rounds": rounds}
        if one.cached:
            result["gain"] = gain = later["off"] / later["memory"]
            # What side networks read takes longer than their arithmetic; they are held against LoRA instead.
            side = row.method["name"] in SIDE_NETWORKS
            wanted = 0.0 if side else one.least or SHARE * expected
            if gain < wanted:
                short.append(f"{row.id}: a gain of {gain:.1f} of {wanted:.1f}")
        if row.method["name"] == "lora":
            lora = later["off"] / one.images
        elif lora and row.method["name"] in SIDE_NETWORKS:
            result["of_lora"] = later["memory"] / one.images / lora
            if result["of_lora"] > MOST_OF_LORA:
                short.append(f"{row.id}: {result['of_lora']:.2f} of LoRA's epoch")
        results.append(result)
        print(line(one, result), flush=True)
    theirs.close()
    args.out.write_text(json.dumps({"about": about, "trials": results}, indent=1) + "\n")
    print(f"\nbelow what is asked for: {'; '.join(short) or 'none'}", file=sys.stderr)


if __name__ == "__main__":
    main()
