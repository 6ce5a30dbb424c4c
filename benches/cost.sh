#!/usr/bin/env bash
# What a training step costs: time and peak memory of the methods on one backbone, as Markdown.
#   benches/cost.sh RUNNER [DEVICE] [VARIANT] [BATCH]
# RUNNER is the path of a built `runner`; default cpu, vit_tiny_patch16_224, 16.
set -euo pipefail

runner=${1:?path of a built runner}
device=${2:-cpu}
variant=${3:-vit_tiny_patch16_224}
batch=${4:-16}

number() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" <<<"$2"; }

row() {
    local title=$1 config=$2
    shift 2
    local json
    json=$("$runner" bench --config "$config" --device "$device" --format json \
        --set "backbone={name: vit, variant: $variant}" \
        --set "recipe.batch_size=$batch" --warmup 2 --steps 7 "$@" 2>/dev/null)
    awk -v title="$title" -v trainable="$(number trainable "$json")" \
        -v seconds="$(number median_seconds "$json")" -v bytes="$(number peak_bytes "$json")" \
        'BEGIN { printf "| %s | %d | %.0f | %.0f |\n", title, trainable, 1000 * seconds, bytes / 1048576 }'
}

echo "| $variant, batch $batch, f32, $device | trainable | ms/step | peak MiB |"
echo "|---|---|---|---|"
row "linear-probe" peft/linear-probe.yaml
row "ap, boundary 12 (late)" peft/ap.yaml --set "method.boundaries=[12]"
row "ap, boundary 1 (early)" peft/ap.yaml --set "method.boundaries=[1]"
row "lora, rank 10 on qkv" peft/lora-r10.yaml
row "full-finetune" peft/full-finetune.yaml
