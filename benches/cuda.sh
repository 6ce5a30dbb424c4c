#!/usr/bin/env bash
# Times training on an NVIDIA device beside PyTorch, with nothing of Rust but a `runner` binary that was built with CUDA:
#
#   benches/cuda.sh path/to/runner
#
# Looks for the file that kernels are linked with ($CUDA_PATH, /usr/local/cuda, or PyTorch's wheels), runs the self-test
# and the quickstart, then times a step of four methods on ViT-B/16 and ViT-L/16 with random weights and images. stdout
# is a Markdown table, stderr everything else. A row that fails shows the error, and the next row runs. Exit code: 0 if
# everything ran, 1 if something failed, 2 for a wrong command line.
#
# The environment variables BATCH, STEPS, WARMUP, ROW_SECONDS, DEVICE, BACKBONES, METHODS and PRECISIONS override the
# defaults below. TORCH names the modes in which PyTorch is timed (benches/cuda_torch.py); it is left out if TORCH is
# empty or `python3` lacks torch and timm. The self-test and the quickstart are left out if CHECKS is empty. JSON names
# a file to which the numbers of all rows are appended, one object per line.
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
CHECKS=${CHECKS-yes}
# Every row is a process of its own that compiles and tunes its kernels, which takes a minute or two at this level.
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

# Prints the folders of NVIDIA's wheels and of Triton that python3 sees, one per line.
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

# Sets CUDA_PATH to a folder with nvvm/libdevice/libdevice.10.bc, the mathematical functions that kernels are linked
# with: that of a toolkit, otherwise that of a wheel (NVIDIA's of nvcc, or Triton's).
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
  echo "note: libdevice.10.bc was not found; set CUDA_PATH to a toolkit" >&2
}

# Prints a field of the flat JSON object on stdin.
field() {
  sed -n "s/.*\"$1\": *\"\{0,1\}\([^,\"}]*\).*/\1/p"
}

# Prints the first line of the error in the file $1.
first_error() {
  local line
  line=$(grep -m 1 -E '^error' "$1")
  # The message of a panic is on the line after its place.
  [[ -z $line ]] && line=$(grep -m 1 -A 1 'panicked at' "$1" | tail -n 1)
  [[ -z $line ]] && line=$(grep -m 1 . "$1")
  echo "${line:-no message}"
}

mebibytes() {
  echo "$(($1 / 1048576))"
}

# Times PyTorch in each mode of TORCH and prints its cells. Arguments: backbone, method, precision, our seconds.
cells_of_torch() {
  local mode line code seconds=
  [[ -n $TORCH ]] || return 0
  BATCH=$BATCH STEPS=$STEPS WARMUP=$WARMUP TORCH_VARIANTS=$TORCH timeout "$ROW_SECONDS" \
    python3 "$here/cuda_torch.py" "${@:1:3}" >"$work/torch" 2>"$work/stderr"
  code=$?
  cat "$work/torch" >>"$JSON"
  for mode in $TORCH; do
    line=$(grep "\"variant\": \"$mode\"" "$work/torch")
    if [[ $line == *median_seconds* ]]; then
      seconds=$(field median_seconds <<<"$line")
      printf ' %.3f | %d | %.0f |' "$seconds" "$(mebibytes "$(field reserved_bytes <<<"$line")")" \
        "$(field inference_images_per_second <<<"$line")"
    else
      failed=1
      printf ' failed (%d) | | |' "$code"
    fi
  done
  # The ratio to the last mode.
  awk -v ours="$4" -v theirs="${seconds:-0}" 'BEGIN { if (theirs > 0) printf " %.1f |", ours / theirs; else printf " |" }'
}

# Prints one row of the table. Arguments: backbone, method, precision.
row() {
  local backbone=$1 method=$2 precision=$3 json code seconds
  json=$(timeout "$ROW_SECONDS" "$runner" bench --config quickstart \
    --set "backbone={name: vit, variant: $backbone, weights: null}" \
    --set "method={name: $method}" \
    --set "recipe.batch_size=$BATCH" \
    --set "recipe.precision=$precision" \
    --device "$DEVICE" --warmup "$WARMUP" --steps "$STEPS" --format json 2>"$work/stderr")
  code=$?
  printf '| %s | %s | %s |' "$backbone" "$method" "$precision"
  if [[ $code -eq 0 ]]; then
    echo "$json" >>"$JSON"
    seconds=$(field median_seconds <<<"$json")
    printf ' %.3f | %d | %.0f |' "$seconds" "$(mebibytes "$(field peak_bytes <<<"$json")")" \
      "$(field inference_images_per_second <<<"$json")"
    cells_of_torch "$@" "$seconds"
    echo
  else
    failed=1
    [[ $code -eq 124 ]] && echo "error: longer than $ROW_SECONDS s" >"$work/stderr"
    echo " exit $code: $(first_error "$work/stderr") |"
  fi
}

{
  find_libdevice
  echo "CUDA_PATH: ${CUDA_PATH:-not set}"
  if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  fi
  if [[ -n $CHECKS ]]; then
    "$runner" doctor --device "$DEVICE" || failed=1
    "$runner" --config quickstart --device "$DEVICE" --runs "$work/runs" || failed=1
  fi
} >&2

versions='import torch, timm; assert torch.cuda.is_available(); print(torch.__version__)'
if [[ -n $TORCH ]] && ! version=$(python3 -c "$versions" 2>/dev/null); then
  echo "note: python3 lacks torch with CUDA or timm; PyTorch is left out" >&2
  TORCH=
fi

gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1)
echo "${gpu:-$DEVICE}${TORCH:+, PyTorch $version}, batch $BATCH, random weights, median of $STEPS steps after $WARMUP"
echo
header='| model | method | type | s/step | MiB | inference images/s |'
for mode in $TORCH; do
  header+=" $mode s/step | MiB | inference images/s |"
done
header+=${TORCH:+" over ${TORCH##* } |"}
echo "$header"
sed 's/[^|]\+/---/g' <<<"$header"
for backbone in $BACKBONES; do
  for method in $METHODS; do
    for precision in $PRECISIONS; do
      row "$backbone" "$method" "$precision"
    done
  done
done
exit "$failed"
