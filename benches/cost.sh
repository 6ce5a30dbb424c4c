#!/usr/bin/env bash
# Times a training step of every method on one backbone and prints a Markdown table: time, peak memory and
# arithmetic (peft_core::flops), the last also as a share of a linear probe's and of full fine-tuning's.
#   benches/cost.sh RUNNER [DEVICE] [BACKBONE] [BATCH]
# RUNNER is the path of a built `runner`; BACKBONE is what a YAML may have at `backbone:`. The defaults are cpu,
# ViT-Ti/16 at 224 pixels and 16. The environment variables STEPS and WARMUP override 7 and 2. On a machine that
# also does other work, set ROUNDS: each round takes the median of its steps, and the fastest round counts.
set -euo pipefail

runner=${1:?path of a built runner}
device=${2:-cpu}
backbone=${3:-'{name: vit, variant: vit_tiny_patch16_224}'}
batch=${4:-16}

methods=(
    "{name: linear-probe}"
    "{name: full-finetune}"
    "{name: ap, boundaries: [-1]}"
    "{name: ap, boundaries: [1]}"
    "{name: vp, kind: full}"
    "{name: vp, kind: border, width: 4}"
    "{name: vp, kind: frame, inner: 24}"
    "{name: vpt, mode: shallow, length: 10}"
    "{name: vpt, mode: deep, length: 10}"
    "{name: lora, rank: 10}"
    "{name: lora, rank: 10, dora: true}"
    "{name: loha, rank: 8}"
    "{name: lokr, rank: 8}"
    "{name: oft, block_size: 32}"
    "{name: boft, block_size: 8, factors: 2}"
    "{name: fourierft, frequencies: 1000}"
    "{name: vera, rank: 256}"
    "{name: fact, kind: tt, rank: 16}"
    "{name: fact, kind: tk, rank: 16}"
    "{name: rep-adapter, bottleneck: 8}"
    "{name: convpass, bottleneck: 8}"
    "{name: compacter, bottleneck: 24}"
    "{name: adapter, kind: pfeiffer, bottleneck: 16}"
    "{name: adapter, kind: houlsby, bottleneck: 16}"
    "{name: adapter, kind: parallel, bottleneck: 16}"
    "{name: adaptformer, bottleneck: 16}"
    "{name: ssf}"
    "{name: norm-tune}"
    "{name: bias}"
    "{name: partial, blocks: 1}"
    "{name: lst, reduction: 8}"
    "{name: vqt, length: 5}"
)

number() { sed -n "s/.*\"$1\":\([0-9.e-]*\).*/\1/p" <<<"$2"; }

for ((round = 0; round < ${ROUNDS:-1}; round++)); do
    for method in "${methods[@]}"; do
        json=$("$runner" bench --config quickstart --device "$device" --what training --format json \
            --set "backbone=$backbone" --set "method=$method" --set "recipe.batch_size=$batch" \
            --warmup "${WARMUP:-2}" --steps "${STEPS:-7}" 2>/dev/null) ||
            { echo "$method is refused on $backbone" >&2 && continue; }
        echo "$method;$(number trainable "$json");$(number median_seconds "$json");$(
            number peak_bytes "$json");$(number gflop_per_step "$json")"
    done
done | awk -F';' -v setting="\`$backbone\`, batch $batch, f32, $device" '
    !($1 in time) { method[++count] = $1; time[$1] = $3 }
    { trainable[$1] = $2; bytes[$1] = $4; work[$1] = $5; if ($3 < time[$1]) time[$1] = $3 }
    END {
        probe = method[1]; full = method[2]
        print setting "\n"
        print "| method | trainable | peak MiB | ms | ms / probe | ms / full | GFLOP | GFLOP / probe | GFLOP / full | GFLOP/s |"
        print "|---|---|---|---|---|---|---|---|---|---|"
        for (i = 1; i <= count; i++) {
            m = method[i]
            printf "| `%s` | %d | %.0f | %.3g | %.2f | %.2f | %.3g | %.2f | %.2f | %.0f |\n", m, trainable[m],
                bytes[m] / 1048576, 1000 * time[m], time[m] / time[probe], time[m] / time[full], work[m],
                work[m] / work[probe], work[m] / work[full], work[m] / time[m]
        }
    }'
