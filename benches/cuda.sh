#!/usr/bin/env bash
# Times training on an NVIDIA device with nothing of Rust but a `runner` binary built with CUDA, beside
# PyTorch on the same device where `python3` has torch and timm (and peft, for lora):
#
#   benches/cuda.sh path/to/runner
#
# Finds what kernels are linked with ($CUDA_PATH, /usr/local/cuda, or PyTorch's wheels), runs the
# self-test and the quickstart, then times a step of four methods on ViT-B/16 and ViT-L/16 with random
# weights and images. A row that fails says why, and the next one runs. Exit code: 0 if everything ran,
# 1 if something failed, 2 for a wrong command line.
#
# BATCH, STEPS, WARMUP, ROW_SECONDS, DEVICE, BACKBONES, METHODS and PRECISIONS in the environment
# override the defaults below. TORCH names the ways that PyTorch is timed in (benches/cuda_torch.py), and
# is empty for none. JSON takes the numbers of all rows, one object a line.
#
# Its rows have been run on a GPU (docs/gpu.md), the script as a whole has not.
set -uo pipefail

BATCH=${BATCH:-128}
STEPS=${STEPS:-10}
WARMUP=${WARMUP:-5}
ROW_SECONDS=${ROW_SECONDS:-900}
DEVICE=${DEVICE:-cuda}
BACKBONES=${BACKBONES:-vit_base_patch16_224 vit_large_patch16_224}
METHODS=${METHODS:-linear-probe ap lora full-finetune}
PRECISIONS=${PRECISIONS:-f32 bf16}
TORCH=${TORCH-eager sdpa compile}
JSON=${JSON:-/dev/null}
# Every row is a process that compiles and tunes its kernels: a minute or two at this level.
export CUBECL_AUTOTUNE_LEVEL=${CUBECL_AUTOTUNE_LEVEL:-minimal}

if [[ $# -ne 1 || ! -x ${1:-} ]]; then
  echo "usage: ${0##*/} RUNNER: an executable runner, built with CUDA" >&2
  exit 2
fi
runner=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0

# The folders of NVIDIA's wheels and of Triton that python3 sees, one a line.
wheel_roots() {
  command -v python3 >/dev/null || return 0
  python3 - <<'PYTHON' 2>/dev/null
import site, sys, pathlib
folders = [*sys.path, *site.getsitepackages(), site.getusersitepackages()]
places = (pathlib.Path(folder) for folder in dict.fromkeys(folders) if folder)
roots = (place / name for place in places for name in ("nvidia", "triton"))
print("\n".join(str(root) for root in roots if root.is_dir()))
PYTHON
}

# Sets CUDA_PATH to a folder with nvvm/libdevice/libdevice.10.bc, the mathematical functions that kernels
# are linked with: a toolkit's, else the one in a wheel (NVIDIA's of nvcc, or Triton's).
find_libdevice() {
  local root found
  for root in "${CUDA_PATH:-}" /usr/local/cuda /opt/cuda /usr/lib/cuda; do
    if [[ -n $root && -f $root/nvvm/libdevice/libdevice.10.bc ]]; then
      export CUDA_PATH=$root
      return
    fi
  done
  while IFS= read -r root; do
    found=$(find -L "$root" -name libdevice.10.bc 2>/dev/null | head -n 1)
    if [[ -n $found ]]; then
      mkdir -p "$work/cuda/nvvm/libdevice"
      ln -s "$found" "$work/cuda/nvvm/libdevice/libdevice.10.bc"
      export CUDA_PATH=$work/cuda
      return
    fi
  done < <(wheel_roots)
  echo "note: libdevice.10.bc is not found: set CUDA_PATH to a toolkit" >&2
}

# A field of a flat JSON object on stdin.
field() {
  sed -n "s/.*\"$1\": *\"\{0,1\}\([^,\"}]*\).*/\1/p"
}

# The first line of an error in the file $1.
first_error() {
  local line
  line=$(grep -m 1 -E '^error' "$1")
  # What a panic says comes after its place.
  [[ -z $line ]] && line=$(grep -m 1 -A 1 'panicked at' "$1" | tail -n 1)
  [[ -z $line ]] && line=$(grep -m 1 . "$1")
  echo "${line:-no message}"
}

# What PyTorch takes in each of the ways of TORCH: backbone, method, precision.
row_of_torch() {
  local way line code
  [[ -n $TORCH ]] || return 0
  BATCH=$BATCH STEPS=$STEPS WARMUP=$WARMUP TORCH_VARIANTS=$TORCH timeout "$ROW_SECONDS" \
    python3 "$here/cuda_torch.py" "$@" >"$work/torch" 2>"$work/stderr"
  code=$?
  tee -a "$JSON" <"$work/torch" >/dev/null
  for way in $TORCH; do
    line=$(grep "\"variant\": \"$way\"" "$work/torch")
    if [[ $line == *median_seconds* ]]; then
      printf ' %9.4f %9.0f' "$(field median_seconds <<<"$line")" \
        "$(($(field reserved_bytes <<<"$line") / 1048576))"
    else
      failed=1
      printf ' %9s %9s' failed "$code"
    fi
  done
}

# One row of the table: backbone, method, precision.
row() {
  local backbone=$1 method=$2 precision=$3 json code
  json=$(timeout "$ROW_SECONDS" "$runner" bench --config quickstart \
    --set "backbone={name: vit, variant: $backbone, weights: null}" \
    --set "method={name: $method}" \
    --set "recipe.batch_size=$BATCH" \
    --set "recipe.precision=$precision" \
    --device "$DEVICE" --warmup "$WARMUP" --steps "$STEPS" --format json 2>"$work/stderr")
  code=$?
  printf '%-22s %-13s %-4s ' "$backbone" "$method" "$precision"
  if [[ $code -eq 0 ]]; then
    echo "$json" >>"$JSON"
    printf '%9.4f %9.1f %9.1f %9.0f' \
      "$(field median_seconds <<<"$json")" \
      "$(field images_per_second <<<"$json")" \
      "$(field inference_images_per_second <<<"$json")" \
      "$(($(field peak_bytes <<<"$json") / 1048576))"
    row_of_torch "$@"
    echo
  else
    failed=1
    [[ $code -eq 124 ]] && echo "error: longer than $ROW_SECONDS s" >"$work/stderr"
    echo "exit $code: $(first_error "$work/stderr")"
  fi
}

find_libdevice
echo "CUDA_PATH        ${CUDA_PATH:-not set}"
if command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
fi

echo
echo "== doctor"
"$runner" doctor --device "$DEVICE" || failed=1

echo
echo "== quickstart"
"$runner" --config quickstart --device "$DEVICE" --runs "$work/runs" || failed=1

if [[ -n $TORCH ]]; then
  versions='import torch, timm; assert torch.cuda.is_available(); print(torch.__version__, timm.__version__)'
  if found=$(python3 -c "$versions" 2>/dev/null); then
    echo
    echo "PyTorch and timm $found"
  else
    echo "note: python3 has no torch with CUDA and timm: PyTorch is left out" >&2
    TORCH=
  fi
fi

echo
echo "== bench: batch $BATCH, median of $STEPS steps after $WARMUP, random weights; PyTorch's are s/step and MiB"
printf '%-22s %-13s %-4s %9s %9s %9s %9s' \
  backbone method type 's/step' 'images/s' 'inference' 'peak MiB'
for way in $TORCH; do
  printf ' %9s %9s' "$way" MiB
done
echo
for backbone in $BACKBONES; do
  for method in $METHODS; do
    for precision in $PRECISIONS; do
      row "$backbone" "$method" "$precision"
    done
  done
done
exit "$failed"
