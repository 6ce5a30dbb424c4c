"""Draws 60,000 images of 32 x 32 pixels from a seed, as CIFAR-10's binary version and as parquet, for `runner data time`.

    python small.py FOLDER

Needs numpy, pillow and pyarrow. FOLDER/cifar is a data set of format `cifar`. FOLDER/parquet has the same images as PNGs with
pyarrow's defaults: train.parquet, test.parquet, and large.parquet with the training images four times, each time with a different
byte after their end.
"""

import io
import pathlib
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

CLASSES = 10


def images(random, count):
    """Coarse squares under noise."""
    squares = random.integers(0, 256, (count, 4, 4, 3)).astype(np.float32).repeat(8, 1).repeat(8, 2)
    return (squares + random.normal(0, 12, squares.shape)).clip(0, 255).astype(np.uint8)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def main():
    folder, random = pathlib.Path(sys.argv[1]), np.random.default_rng(0)
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


main()
