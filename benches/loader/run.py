"""Measures images per second from JPEGs to batches, `runner data time` beside PyTorch's DataLoader, and prints Markdown.

    python benches/loader/run.py RUNNER [--workers 2] [--rounds 5] [--photos FOLDER]

RUNNER is the path of a built `runner`. Needs torch, torchvision, pillow and numpy. Photos of ImageNet's size are drawn into a
temporary folder (photos.py), or taken from FOLDER. Both sides take turns with the same number of threads or worker processes, in
batches of 64. In each turn the first epoch warms up and the second counts; the table has the median and the range of the rounds.
Files come from the system's cache. There are three ways from a file to a batch of [64, 3, 224, 224]:

- the whole image resized to 224 x 224, bicubic, normalised, which is VTAB's protocol;
- a random resized crop, bicubic, and a flip, normalised, as in training on ImageNet;
- the resized pixels read from a memory-mapped file and normalised; for PyTorch a numpy.memmap of uint8.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import PIL
import torch
import torchvision
from torchvision import transforms
from torchvision.transforms.functional import InterpolationMode

SIZE, BATCH = 224, 64
NORMAL = transforms.Normalize((0.5,) * 3, (0.5,) * 3)
WHOLE = transforms.Resize((SIZE, SIZE), InterpolationMode.BICUBIC)
CROP = [
    transforms.RandomResizedCrop(SIZE, interpolation=InterpolationMode.BICUBIC),
    transforms.RandomHorizontalFlip(),
]
CASES = {
    "the whole image resized, bicubic": ([WHOLE], ["prefix_cache=off"]),
    "random resized crop, bicubic, and flip": (
        CROP,
        ["prefix_cache=off", "recipe.augmentation={random_resized_crop: {}, interpolation: bicubic, hflip: 0.5}"],
    ),
    "resized pixels from a memory-mapped file": (None, ["prefix_cache=disk"]),
}


class Rows(torch.utils.data.Dataset):
    """Resized pixels in one file; each row becomes a tensor as `ToTensor` makes it from an image."""

    def __init__(self, images, path):
        pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (len(images), SIZE, SIZE, 3))
        for index in range(len(images)):
            pixels[index] = np.asarray(WHOLE(images[index][0]))
        pixels.flush()
        self.pixels = np.load(path, mmap_mode="r")
        self.labels = images.targets

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = torch.from_numpy(self.pixels[index].copy()).permute(2, 0, 1).contiguous()
        return NORMAL(image.float().div_(255)), self.labels[index]


def pytorch(dataset, workers):
    """Images per second of the second epoch."""
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=True, prefetch_factor=2
    )
    for _ in range(2):
        start = time.perf_counter()
        images = sum(len(labels) for _, labels in loader)
        seconds = time.perf_counter() - start
    return images / seconds


def runner(program, photos, folder, sets, workers):
    """The same number for `runner data time`."""
    backbone = "{name: vit, variant: vit_tiny_patch16_224, crop_pct: 1.0, crop_mode: squash}"
    sets = [f"backbone={backbone}", f"dataset={{name: folder, root: {photos}}}", f"recipe.batch_size={BATCH}", *sets]
    command = [program, "data", "time", "--config", "peft/full-finetune", "--device", "cpu", "--threads", str(workers)]
    command += ["--epochs", "2", "--cache", str(folder), "--format", "json"]
    command += [word for text in sets for word in ("--set", text)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out)["images_per_second"][-1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("runner")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = args.photos or f"{folder}/photos"
        if not args.photos:
            script = pathlib.Path(__file__).parent / "photos.py"
            subprocess.run([sys.executable, script, photos], check=True, stdout=sys.stderr)
        files = torchvision.datasets.ImageFolder(f"{photos}/train")
        rows = Rows(files, f"{folder}/rows.npy")
        speeds = {name: ([], []) for name in CASES}
        for _ in range(args.rounds):
            for name, (steps, sets) in CASES.items():
                dataset = rows
                if steps:
                    files.transform = transforms.Compose([*steps, transforms.ToTensor(), NORMAL])
                    dataset = files
                speeds[name][0].append(runner(args.runner, photos, f"{folder}/cache", sets, args.workers))
                speeds[name][1].append(pytorch(dataset, args.workers))
        versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"
        print(f"{len(files)} images, batches of {BATCH}, {args.workers} workers, {args.rounds} rounds in turn, {versions}\n")
        print("| images/s, median (range) | `runner` | DataLoader | ratio |\n|---|---|---|---|")
        for name, (ours, theirs) in speeds.items():
            say = lambda all: f"{statistics.median(all):,.0f} ({min(all):,.0f} to {max(all):,.0f})"
            times = statistics.median(ours) / statistics.median(theirs)
            print(f"| {name} | {say(ours)} | {say(theirs)} | {times:.1f} |")


if __name__ == "__main__":
    main()
