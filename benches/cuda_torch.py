"""Times PyTorch on the rows of benches/cuda.sh and prints one JSON object per line.

    python3 benches/cuda_torch.py MODEL METHOD PRECISION...

For each precision (f32, bf16) the model is timed in the modes of VARIANTS. A step is the forward pass, the loss, the
backward pass and AdamW on images that are already on the device; the device's queue is empty when the clock starts and when it
stops. BATCH, STEPS and WARMUP are read from the environment, and TORCH_VARIANTS selects some of VARIANTS. Needs torch and timm,
and peft for the method lora.
"""

import json
import os
import statistics
import sys
import time

import timm
import torch
from torch import nn

BATCH = int(os.environ.get("BATCH", 128))
STEPS = int(os.environ.get("STEPS", 10))
WARMUP = int(os.environ.get("WARMUP", 5))
CLASSES = 10

# name: (fused attention, torch.compile)
VARIANTS = {"eager": (False, False), "sdpa": (True, False), "compile": (True, True)}


class Prompted(nn.Module):
    """An additive prompt at the input of the third block, the default of the method ap."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        tokens = model.patch_embed.num_patches + model.num_prefix_tokens
        self.delta = nn.Parameter(torch.zeros(1, tokens, model.embed_dim))

    def forward(self, x):
        model = self.model
        with torch.no_grad():
            x = model.patch_embed(x)
            x = model.norm_pre(model._pos_embed(x))
            x = model.blocks[:2](x)
        x = model.blocks[2:](x + self.delta)
        return model.forward_head(model.norm(x))


class Probe(nn.Module):
    """A head on a frozen backbone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        with torch.no_grad():
            x = self.model.forward_features(x)
            x = self.model.forward_head(x, pre_logits=True)
        return self.model.head(x)


def build(name, method):
    model = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    if method != "full-finetune":
        for part in model.parameters():
            part.requires_grad_(False)
        for part in model.head.parameters():
            part.requires_grad_(True)
    match method:
        case "linear-probe":
            model = Probe(model)
        case "ap":
            model = Prompted(model)
        case "lora":
            from peft import LoraConfig, inject_adapter_in_model

            config = LoraConfig(r=8, lora_alpha=8, target_modules=["qkv"])
            model = inject_adapter_in_model(config, model)
            for part in model.head.parameters():
                part.requires_grad_(True)
        case "full-finetune":
            pass
        case _:
            sys.exit(f"error: unknown method {method}")
    return model.cuda().train()


def timed(step):
    seconds = []
    for index in range(WARMUP + STEPS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        if index >= WARMUP:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def row(name, method, precision, variant):
    fused, compiled = VARIANTS[variant]
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    timm.layers.set_fused_attn(fused)
    model = build(name, method)
    images = torch.rand(BATCH, 3, 224, 224, device="cuda") * 2 - 1
    labels = torch.randint(CLASSES, (BATCH,), device="cuda")
    trained = [part for part in model.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0, fused=True)
    forward = torch.compile(model) if compiled else model
    half = torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16")

    def step():
        with half:
            loss = nn.functional.cross_entropy(forward(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def infer():
        with torch.inference_mode(), half:
            forward(images)

    start = time.perf_counter()
    seconds = timed(step)
    peak = torch.cuda.max_memory_allocated()
    reserved = torch.cuda.max_memory_reserved()
    model.eval()
    inference = timed(infer)
    return {
        "model": name,
        "method": method,
        "precision": precision,
        "variant": variant,
        "batch": BATCH,
        "trainable": sum(part.numel() for part in trained),
        "median_seconds": seconds,
        "images_per_second": BATCH / seconds,
        "inference_images_per_second": BATCH / inference,
        "peak_bytes": peak,
        "reserved_bytes": reserved,
        "total_seconds": time.perf_counter() - start,
    }


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    # Burn multiplies f32 matrices in TF32 on tensor cores; PyTorch is allowed the same.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    name, method, *precisions = sys.argv[1:]
    for precision in precisions:
        for variant in os.environ.get("TORCH_VARIANTS", " ".join(VARIANTS)).split():
            try:
                result = row(name, method, precision, variant)
            except Exception as error:  # A row that fails is reported, and the next one runs.
                result = {"model": name, "method": method, "precision": precision,
                          "variant": variant, "error": str(error).splitlines()[0][:200]}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
