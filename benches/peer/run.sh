#!/usr/bin/env bash
# Compares training steps and inference with PyTorch's on one machine; both sides take turns.
#
#   benches/peer/run.sh [--only REGEX] [--device cpu|cuda] [--precision f32|bf16|all] [--level best|avx2]
#                     [--threads 2] [--batch N] [--rounds 5] [--times] [--shipped] [--out FILE]
#   benches/peer/run.sh growth [--out FILE.svg]     step time against batch, depth, tokens and threads, as a plot
#   benches/peer/run.sh cache [--only REGEX]        what the prefix cache gains
#
# RUNNER names a built runner; if it is not set, the runner is built here (with CUDA for --device cuda). PEER_PYTHON names
# a Python with the packages of requirements.txt; if it is not set, a virtual environment is made in PEER_VENV (default
# target/peer/venv), which needs a network the first time. On the CPU, Linux with glibc and a C compiler are needed,
# because PyTorch's heap is counted in the same way as the runner counts its own. On an AMD processor MKL is made to use
# all of its instructions (vendor.c), unless PEER_MKL=shipped; --shipped also times PyTorch as it comes. Leave the machine
# alone meanwhile.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$root/target/peer
mkdir -p "$work"

device=cpu
for ((i = 1; i <= $#; i++)); do
    next=$((i + 1))
    case ${!i} in
        --device) device=${!next:-} ;;
        --device=*) device=${!i#*=} ;;
    esac
done

if [[ -z ${RUNNER:-} ]]; then
    flags=()
    [[ $device == cpu || $device == auto ]] || flags=(--features "${device%%:*}")
    (cd "$root" && cargo build --release "${flags[@]}" --bin runner >&2)
    RUNNER=$root/target/release/runner
fi

if [[ -z ${PEER_PYTHON:-} ]]; then
    venv=${PEER_VENV:-$work/venv}
    if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
        python3 -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --requirement "$here/requirements.txt" >&2
        cp "$here/requirements.txt" "$venv/requirements.txt"
    fi
    PEER_PYTHON=$venv/bin/python
fi

library() {
    "${CC:-cc}" -O2 -shared -fPIC -o "$work/$1.so" "$here/$1.c"
}
heap=()
preload=()
if [[ $device == cpu ]]; then
    library count
    heap=(--heap "$work/count.so")
    if grep -q AuthenticAMD /proc/cpuinfo && [[ ${PEER_MKL:-} != shipped ]]; then
        library vendor
        preload=(--preload "$work/vendor.so")
    fi
fi

script=peer.py
out=$work/$device.json
case ${1:-} in
    growth) script=growth.py out=$work/growth.svg ;;
    cache) script=cache.py out=$work/cache.json ;;
esac
if [[ $script != peer.py ]]; then
    heap=()
    shift
fi
exec "$PEER_PYTHON" "$here/$script" --runner "$RUNNER" ${heap[@]+"${heap[@]}"} ${preload[@]+"${preload[@]}"} --out "$out" "$@"
