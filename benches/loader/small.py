"""Times how the runner reads 60,000 images of 32 x 32 pixels from CIFAR's binary version and from parquet, as a table.

    python small.py RUNNER [FOLDER]

Needs numpy, pillow and pyarrow. The images are drawn from a seed into FOLDER (by default a temporary one): FOLDER/cifar is a data
set of format `cifar`, and FOLDER/parquet has the same images as PNGs with pyarrow's defaults: train.parquet, test.parquet, and
large.parquet with the training images four times, each time with a different byte after their end.
"""

import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

CLASSES = 10
BATCH, THREADS = 128, 2


def images(random, count):
    """Coarse squares under noise."""
    squares = random.integers(0, 256, (count, 4, 4, 3)).astype(np.float32).repeat(8, 1).repeat(8, 2)
    return (squares + random.normal(0, 12, squares.shape)).clip(0, 255).astype(np.uint8)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def draw(folder, random):
    cifar, hub = folder / "cifar", folder / "parquet"
    cifar.mkdir(parents=True)
    hub.mkdir()
    (cifar / "batches.meta.txt").write_text("".join(f"class {label}\n" for label in range(CLASSES)))
    pngs, labels = [], []
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        pixels, own = images(random, 10_000), random.integers(0, CLASSES, 10_000).astype(np.uint8)
        planes = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        (cifar / name).write_bytes(np.concatenate([own[:, None], planes], 1).tobytes())
        pngs += map(png, pixels)
        labels += own.tolist()
    train, test = (pngs[:50_000], labels[:50_000]), (pngs[50_000:], labels[50_000:])
    large = ([image + bytes([copy]) for copy in range(4) for image in train[0]], 4 * train[1])
    for name, (rows, own) in {"train": train, "test": test, "large": large}.items():
        table = pyarrow.table({"image": [{"bytes": row, "path": None} for row in rows], "label": own})
        pyarrow.parquet.write_table(table, hub / f"{name}.parquet")


def timed(runner, dataset):
    """Seconds until the first batch, images per second, and the peak of resident memory in MiB."""
    command = [runner, "data", "time", "--config", "peft/full-finetune", "--epochs", "1", "--threads", str(THREADS)]
    command += ["--device", "cpu", "--format", "json"]
    for field in ["prefix_cache=off", f"recipe.batch_size={BATCH}", f"dataset={json.dumps(dataset)}"]:
        command += ["--set", field]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    told = json.loads(process.stdout.read())
    # The usage of this child alone, which `getrusage` would mix with that of the children before it.
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"error: {' '.join(command)} ended with {status}")
    first = told["open_seconds"] + told["first_batch_seconds"]
    return first, told["images_per_second"][0], usage.ru_maxrss / 1024


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else temporary) / "small"
        draw(folder, np.random.default_rng(0))
        size = lambda *names: sum((folder / name).stat().st_size for name in names) / 2**20
        bins = [f"cifar/{path.name}" for path in (folder / "cifar").glob("*.bin")]
        cifar = {"name": "cifar", "root": str(folder / "cifar")}
        hub = {"name": "parquet", "root": str(folder / "parquet"), "train": "train.parquet", "test": "test.parquet"}
        rows = {
            f"CIFAR binary, {size(*bins):.0f} MiB": cifar,
            "parquet of PNGs at pyarrow's defaults (snappy), "
            f"{size('parquet/train.parquet', 'parquet/test.parquet'):.0f} MiB": hub,
            f"the same with 200,000 training images, {size('parquet/large.parquet', 'parquet/test.parquet'):.0f} MiB": hub
            | {"train": "large.parquet"},
        }
        print(f"60,000 images of 32 x 32 pixels, batches of {BATCH}, {THREADS} threads, mapped files counted as resident:\n")
        print("| data set | time to the first batch | images/s | peak resident |\n|---|---|---|---|")
        for name, dataset in rows.items():
            first, speed, peak = timed(sys.argv[1], dataset)
            print(f"| {name} | {first:.1f} s | {float(f'{speed:.3g}'):,.0f} | {peak:.0f} MiB |")


main()
