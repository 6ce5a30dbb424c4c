#!/usr/bin/env bash
# Everything that a change needs from an NVIDIA device, in ten minutes, with nothing of Rust but a `runner` binary that
# was built with `--features cuda,persistence`:
#
#   benches/nvidia.sh path/to/runner OUT
#
# The stages, each a file in the folder OUT, and a line on stdout with its seconds:
#   doctor    the operations against their formulas, and every kind of trained parameter against the CPU
#   trust     the comparison of the device with the CPU, and an epoch of the quickstart: the first start
#   resnet    `lora` and `full-finetune` of ResNet-18 for nine steps beside the losses of the CPU
#   second    an epoch of the quickstart again: the second start, with the kernels that were kept
#   table     a step of ViT-B/16 in bf16 beside PyTorch (benches/cuda.sh)
#
# A stage that takes longer than its limit is ended, and the next one runs. The environment variable DEVICE names
# another device, STAGES other stages; python3 with torch and timm is used where it is there. Exit code: 0 if all
# passed, 1 if something failed, 2 for a wrong command line.
set -uo pipefail

DEVICE=${DEVICE:-cuda}
STAGES=${STAGES:-doctor trust resnet second table}
# The largest difference of a loss from the CPU's, relative to it: the products of f32 are computed in TF32 there, whose
# errors grow from step to step.
LOSSES=${LOSSES:-0.02}
export CUBECL_AUTOTUNE_LEVEL=${CUBECL_AUTOTUNE_LEVEL:-minimal}

if [[ $# -ne 2 || ! -x ${1:-} ]]; then
  echo "usage: ${0##*/} RUNNER OUT: an executable runner, built with CUDA, and a folder for the results" >&2
  exit 2
fi
runner=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
mkdir -p "$2" && out=$(realpath "$2") || exit 2
# Kernels and comparisons of earlier runs would hide how long the first start takes.
export XDG_CACHE_HOME=$out/cache
rm -rf "$out/cache" "$out/runs"

train() {
  "$runner" "${@:2}" --set recipe.epochs=1 --runs "$out/runs/$1" --cache "$out/cache/runner"
}

doctor() {
  "$runner" doctor --device "$DEVICE" --only ops/ && "$runner" doctor --device "$DEVICE" --only kinds/
}

trust() { train first --config quickstart --device "$DEVICE"; }
second() { train second --config quickstart --device "$DEVICE"; }

# The losses of a run.
losses() { sed -n 's/.*"loss":\([^,}]*\).*/\1/p' "$out/runs/$1"/*/*/steps.jsonl; }

resnet() {
  local method device wrong=0
  for method in lora full-finetune; do
    for device in cpu "$DEVICE"; do
      train "$method-${device%%:*}" --config quickstart --set backbone=resnet18 --set backbone.weights=null \
        --set backbone.img_size=32 --set "method={name: $method}" --set recipe.batch_size=128 \
        --set recipe.optimizer.lr=0.001 --device "$device" >/dev/null || return 1
    done
    echo "$method: step, loss on the CPU, on $DEVICE, relative difference"
    paste <(losses "$method-cpu") <(losses "$method-${DEVICE%%:*}") | awk -v most="$LOSSES" '
      { d = ($2 - $1) / $1; if (d < 0) d = -d; print NR, $1, $2, d; if (!(d <= most)) wrong = 1 }
      END { exit (wrong || NR == 0) }' || wrong=1
  done
  return "$wrong"
}

table() {
  CHECKS= PRECISIONS=bf16 BACKBONES=vit_base_patch16_224 TORCH=${TORCH-eager sdpa} WARMUP=3 STEPS=10 ROW_SECONDS=90 \
    JSON=$out/table.json "$here/cuda.sh" "$runner"
}

# Limits that add up to ten minutes.
declare -A limits=([doctor]=120 [trust]=90 [resnet]=90 [second]=40 [table]=260)
export -f train doctor trust second losses resnet table
export DEVICE LOSSES runner here out

failed=0
for stage in $STAGES; do
  if [[ -z ${limits[$stage]:-} ]]; then
    echo "unknown stage $stage, expected some of ${!limits[*]}" >&2
    exit 2
  fi
  start=$SECONDS
  timeout "${limits[$stage]}" bash -c "$stage" >"$out/$stage.txt" 2>"$out/$stage.log"
  code=$?
  case $code in
    0) result=passed ;;
    124) result="ended after ${limits[$stage]} s" failed=1 ;;
    *) result="failed ($code)" failed=1 ;;
  esac
  echo "$stage: $result, $((SECONDS - start)) s"
done
exit "$failed"
