"""PyTorch's side: one long-lived process, so that starting it is not timed. It answers requests, one JSON object per line.

    {"do": "open", "row": {...}, "mode": "eager"}     builds a model
    {"do": "time", "warmup": 1, "steps": 3}           seconds of each step
    {"do": "memory", "steps": 2}                      bytes; needs count.so in LD_PRELOAD on the CPU
    {"do": "epochs", "row": {...}, "images": 96, ...}  seconds of each epoch
    {"do": "threads", "threads": 2}
"""

import ctypes
import gc
import json
import math
import sys
import time

import torch
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

import methods
import models


class Heap:
    """Live bytes of this process's heap, counted by count.so."""

    def __init__(self):
        self.own = ctypes.CDLL(None)
        for name in ("count_live", "count_peak"):
            getattr(self.own, name).restype = ctypes.c_long

    def live(self):
        return self.own.count_live()

    def peak(self):
        return self.own.count_peak()

    def reset(self):
        self.own.count_reset()


class Pool:
    """Bytes of the device's tensors, and the peak of the pool that holds them, which is what Burn's pool reports."""

    def live(self):
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    def peak(self):
        torch.cuda.synchronize()
        return torch.cuda.max_memory_reserved()

    def reset(self):
        torch.cuda.reset_peak_memory_stats()


class Side:
    def __init__(self, device, threads):
        self.device = torch.device(device)
        if self.device.type == "cpu":
            torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.step = None
        self.before = self.base = 0
        try:
            self.counter = Pool() if self.device.type == "cuda" else Heap()
        except AttributeError:
            self.counter = None  # This process only measures time.
        self.warm()

    def warm(self):
        """Runs a first step, so that what PyTorch loads then is not counted as a row's memory."""
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 4)).to(self.device)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        F.cross_entropy(model(torch.randn(2, 3, 8, 8, device=self.device)), torch.tensor([0, 1], device=self.device)).backward()
        optimizer.step()

    def sync(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def close(self):
        self.step = None
        gc.collect()
        if hasattr(torch, "_dynamo"):
            torch._dynamo.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def open(self, row, mode):
        """mode: eager (f32), autocast (bf16) or compile (bf16, torch.compile)."""
        self.close()
        self.before = self.counter.live() if self.counter else 0
        model = models.backbone(row["timm"], **row["options"])
        size, batch = row["size"], row["batch"]
        infer = row["method"] is None
        residual = models.is_resnet(model)
        maps = residual or models.is_convnext(model)
        if infer:
            # Folds BatchNorm into the convolutions.
            module = fuse(model.eval()) if residual else model.eval()
        else:
            module = methods.prepare(*methods.adapt(model, row["method"], size))
        module = module.to(self.device)
        images = torch.rand(batch, 3, size, size, device=self.device) * 2 - 1
        if maps:
            # Convolutions are faster in this layout.
            module = module.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(models.CLASSES, (batch,), device=self.device)
        trained = [p for p in module.parameters() if p.requires_grad]
        optimizer = None if infer else torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0, fused=True)
        call = module if mode != "compile" else torch.compile(module)
        cast = torch.autocast(self.device.type, torch.bfloat16, enabled=mode != "eager")

        def train(between=lambda: None):
            with cast:
                loss = F.cross_entropy(call(images), labels)
            between()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        def predict(between=lambda: None):
            with torch.inference_mode(), cast:
                call(images)

        self.step = predict if infer else train
        tensors = {p.data_ptr(): p.nbytes for p in [*module.parameters(), *module.buffers()]}
        self.base = sum(tensors.values()) + images.nbytes + labels.nbytes
        return {"trainable": sum(p.numel() for p in trained)}

    def threads(self, threads):
        torch.set_num_threads(threads)

    def time(self, warmup, steps):
        seconds = []
        for index in range(warmup + steps):
            self.sync()
            start = time.perf_counter()
            self.step()
            self.sync()
            if index >= warmup:
                seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def epochs(self, row, images, validation, epochs):
        """Times a trial without a cache: training and validation batches run through the whole network."""
        self.close()
        module, statistics = methods.adapt(models.backbone(row["timm"], **row["options"]), row["method"], row["size"])
        module = methods.prepare(module, statistics)
        layout = torch.channels_last if models.is_resnet(module.model) else torch.contiguous_format
        module = module.to(memory_format=layout)

        def in_memory(count):
            pixels = torch.rand(count, 3, row["size"], row["size"]) * 2 - 1
            return pixels.contiguous(memory_format=layout), torch.randint(models.CLASSES, (count,))

        training, held_out = in_memory(images), in_memory(validation)
        trained = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
        seconds, start = [], time.perf_counter()
        for _ in range(epochs):
            began = time.perf_counter()
            for places in torch.randperm(images).split(row["batch"]):
                pixels, labels = (part[places] for part in training)
                loss = F.cross_entropy(module(pixels), labels)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if not math.isfinite(loss.item()):
                    raise ValueError("the loss is not finite")
            seconds.append(time.perf_counter() - began)
            with torch.inference_mode():
                for pixels in held_out[0].split(row["batch"]):
                    module(pixels)
        return {"epochs": seconds, "to_end": time.perf_counter() - start}

    def memory(self, steps):
        """The peak above weights and batch, and what the forward pass leaves for the backward pass."""
        if not self.counter:
            raise ValueError("count.so is not loaded")
        # Building the model raised the peak.
        gc.collect()
        self.counter.reset()
        kept = 0
        for _ in range(steps):
            start = self.counter.live()

            def between():
                nonlocal kept
                kept = self.counter.live() - start

            self.step(between)
        return {"above_bytes": self.counter.peak() - self.before - self.base, "kept_bytes": kept}


def main():
    device, threads = sys.argv[1], int(sys.argv[2])
    side = Side(device, threads)
    answer = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        try:
            answer = getattr(side, do)(**request) or {}
        except Exception as e:  # A row that fails is reported, and the next one runs.
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
