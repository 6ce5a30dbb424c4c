#!/usr/bin/env bash
# Times a training step of `ap` and `lora` on the paper's full-size backbones, with random weights and images of 224
# pixels, and prints a Markdown table: time, arithmetic and the peak memory of the process.
#   benches/full-size.sh RUNNER [DEVICE] [BATCH]
# RUNNER is the path of a built `runner`. The defaults are cpu and 1. The environment variables STEPS and WARMUP
# override 3 and 1.
set -euo pipefail

runner=${1:?path of a built runner}
device=${2:-cpu}
batch=${3:-1}

backbones=(
    "{name: vit, variant: vit_base_patch16_224}"
    "{name: vit, variant: vit_large_patch16_224}"
    "{name: resnet, variant: resnet101}"
    "{name: swin, variant: swin_base_patch4_window7_224}"
    "{name: clip, variant: vit_base_patch32_clip_quickgelu_224}"
)
methods=("{name: ap}" "{name: lora, rank: 10}")

number() { sed -n "s/.*\"$1\":\([0-9.e-]*\).*/\1/p" <<<"$2"; }

echo "| backbone | method | trainable | inference images/s | ms/step | GFLOP/step | peak MiB |"
echo "|---|---|---|---|---|---|---|"
for backbone in "${backbones[@]}"; do
    for method in "${methods[@]}"; do
        json=$("$runner" bench --config quickstart --device "$device" --format json \
            --set "backbone=$backbone" --set "method=$method" --set "recipe.batch_size=$batch" \
            --warmup "${WARMUP:-1}" --steps "${STEPS:-3}" 2>/dev/null)
        awk -v b="$backbone" -v m="$method" -v t="$(number trainable "$json")" \
            -v i="$(number inference_images_per_second "$json")" \
            -v s="$(number median_seconds "$json")" -v g="$(number gflop_per_step "$json")" \
            -v p="$(number peak_bytes "$json")" 'BEGIN {
                printf "| `%s` | `%s` | %d | %.1f | %.0f | %.1f | %.0f |\n", b, m, t, i, 1000 * s, g, p / 1048576
            }'
    done
done
