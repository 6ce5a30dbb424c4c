#!/usr/bin/env bash
# Trains some steps of LoRA and of an activation prompt on squares and on rectangles, with random weights, and prints a
# Markdown table of time and peak memory.
#   benches/rectangles.sh RUNNER [DEVICE] [BATCH]
# RUNNER is the path of a built `runner`; the defaults are cpu and 8. STEPS and WARMUP override 5 and 1.
set -euo pipefail

runner=${1:?path of a built runner}
device=${2:-cpu}
batch=${3:-8}

number() { sed -n "s/.*\"$1\":\([0-9.e-]*\).*/\1/p" <<<"$2"; }

printf 'Batch %s, f32, %s, random weights\n\n' "$batch" "$device"
printf '| backbone | image | method | trainable | ms | peak MiB |\n|---|---|---|---|---|---|\n'
for backbone in 'vit vit_small_patch16_dinov3' 'convnext convnext_tiny'; do
    read -r family variant <<<"$backbone"
    for size in 224 '[160, 256]'; do
        for method in '{name: lora, rank: 10}' '{name: ap, boundaries: [-3]}'; do
            json=$("$runner" bench --config quickstart --device "$device" --what training --format json \
                --set "backbone={name: $family, variant: $variant, img_size: $size, weights: random}" \
                --set "method=$method" --set "recipe.batch_size=$batch" \
                --warmup "${WARMUP:-1}" --steps "${STEPS:-5}" 2>/dev/null)
            LC_ALL=C awk -v start="| $variant | $size | \`$method\` | $(number trainable "$json")" \
                -v seconds="$(number median_seconds "$json")" -v bytes="$(number peak_bytes "$json")" \
                'BEGIN { printf "%s | %.0f | %.0f |\n", start, 1000 * seconds, bytes / 1048576 }'
        done
    done
done
