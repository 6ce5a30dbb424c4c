"""Draws photo-like JPEGs of ImageNet's size from a seed, as a torchvision ImageFolder.

    python photos.py FOLDER [COUNT]

Writes COUNT (512) images into FOLDER/train and an eighth as many into val and test, with eight classes each. An image has the
spectrum of a photograph (amplitude 1/f), a few hard edges and sensor noise. It is 500 x 375 or 375 x 500 pixels, 4:2:0, of quality 84
to 94, which gives about 110 kB, ImageNet's mean.
"""

import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw

CLASSES = 8


def photo(random):
    width, height = (500, 375) if random.random() < 0.75 else (375, 500)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    noise = lambda: np.fft.irfft2(np.fft.rfft2(random.normal(size=(height, width))) / frequency, (height, width))
    grey = noise()
    channels = [grey + 0.35 * noise() for _ in range(3)]
    values = np.stack([64 * (c - c.mean()) / c.std() + random.uniform(90, 160) for c in channels], -1)
    image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(3, 9)):
        x, y = random.integers(width), random.integers(height)
        across, down = random.integers(10, 160, 2)
        draw.ellipse((x, y, x + across, y + down), fill=tuple(int(v) for v in random.integers(0, 256, 3)))
    values = np.asarray(image) + random.normal(0, 4, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def main():
    folder, count = pathlib.Path(sys.argv[1]), int((sys.argv[2:] or [512])[0])
    random = np.random.default_rng(0)
    sizes = []
    for split, images in [("train", count), ("val", count // 8), ("test", count // 8)]:
        for index in range(images):
            path = folder / split / f"class{index % CLASSES}" / f"{index:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            photo(random).save(path, quality=int(random.integers(84, 95)), subsampling="4:2:0")
            sizes.append(path.stat().st_size)
    print(f"{len(sizes)} images, {np.mean(sizes) / 1000:.0f} kB each")


main()
