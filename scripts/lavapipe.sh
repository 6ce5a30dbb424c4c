#!/usr/bin/env bash
# Runs what accelerators run on Mesa's lavapipe, a Vulkan driver that computes on the CPU: the kernels, the operations,
# one training step of every method on every family, and the quickstart for an epoch, twice.
#
#   scripts/lavapipe.sh [STAGE ..]
#
# The stages, in this order if none is named:
#   root        a Debian with Mesa 26 in a folder. Mesa 22.3 of Debian 12 and 25.0 end at the first kernel.
#   build       the runner, with Vulkan and kept kernels
#   kernels     the tests of the kernels in ops/src/cube: values and gradients in f32, f16 and, if the driver has it, bf16
#               against formulas in 64 bits, and that nothing is written beside the outputs
#   operations  `runner doctor`: operations against their formulas in 64 bits on the CPU
#   kinds       every kind of trained parameter on every family against the CPU
#   methods     one step of every method on every family against the CPU
#   quickstart  the comparison of the device, and an epoch; then again, with the kernels that were kept
#
# Needs root (debootstrap and chroot), debootstrap, and 1 GiB for the folder. debootstrap checks Debian's signature,
# and every package by the hash that is signed. The environment variables ROOT (the folder), MIRROR (Debian's),
# FEATURES, and RUNNER and TESTS (the runner and the tests of ops/, if they are built already) override the defaults
# below. stdout has a line per stage with its seconds; each stage's output is in ROOT/../STAGE.log. Exit code: 0 if all
# passed, 1 if a stage failed (the next ones run all the same), 2 for a wrong command line.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ROOT=${ROOT:-target/lavapipe/debian}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
FEATURES=${FEATURES:-vulkan,persistence}
# Tuning tries every candidate of a kernel; on a CPU each takes seconds to compile.
export CUBECL_AUTOTUNE_LEVEL=${CUBECL_AUTOTUNE_LEVEL:-minimal}
all=(root build kernels operations kinds methods quickstart)

usage() {
    echo "usage: ${0##*/} [STAGE ..], of ${all[*]}" >&2
    exit 2
}

root() {
    if ! [[ -e $ROOT/etc/debian_version ]]; then
        mkdir -p "$(dirname "$ROOT")"
        rm -rf "$ROOT"
        debootstrap --variant=minbase --include=mesa-vulkan-drivers,libvulkan1 sid "$ROOT" "$MIRROR" || return 1
    fi
    local mesa
    mesa=$(chroot "$ROOT" dpkg-query -W -f '${Version}' mesa-vulkan-drivers) || return 1
    echo "Mesa $mesa"
    if [[ ${mesa%%.*} -lt 26 ]]; then
        echo "expected Mesa 26 or later: older ones end at the first kernel" >&2
        return 1
    fi
}

build() {
    if [[ -z ${RUNNER:-} ]]; then
        cargo build --release --features "$FEATURES" || return 1
        RUNNER=target/release/runner
    fi
    install -D "$RUNNER" "$ROOT/opt/peft/runner"
}

# The tests of ops/ are a program of their own. cargo prints its path. The features are those of the runner, which
# is why cargo is told of it.
kernels() {
    if [[ -z ${TESTS:-} ]]; then
        TESTS=$(cargo test --release --features "$FEATURES" -p peft-ops -p peft-runner --lib --no-run \
            --message-format=json |
            sed -n '/"name":"peft_ops"/s/.*"executable":"\([^"]*\)".*/\1/p') && [[ -n $TESTS ]] || return 1
    fi
    install -D "$TESTS" "$ROOT/opt/peft/kernels"
    # One at a time: they share one device, and the order of their lines is that of the log.
    inside kernels cube::tests --ignored --nocapture --test-threads=1
}

# Runs a program of /opt/peft in the folder, where lavapipe is the only driver.
inside() {
    # The program reads its own file and the machine in /proc.
    unshare --mount bash -c 'mount -t proc proc "$1/proc" && exec chroot "$1" "${@:2}"' - "$ROOT" \
        /usr/bin/env -i PATH=/usr/bin:/bin HOME=/root XDG_CACHE_HOME=/var/cache/peft \
        VK_DRIVER_FILES=/usr/share/vulkan/icd.d/lvp_icd.json BURN_DEVICE=vulkan CUBECL_AUTOTUNE_LEVEL="$CUBECL_AUTOTUNE_LEVEL" \
        "/opt/peft/$1" "${@:2}"
}

operations() { inside runner list devices && inside runner doctor --device vulkan --only ops/; }
kinds() { inside runner doctor --device vulkan --only kinds/; }

# A process for each family: the names of the tests are those of family and method.
methods() {
    local family failed=0
    for family in $(inside runner list backbones | awk '/^[^ ]/ { print $1 }'); do
        inside runner doctor --device vulkan --only "$family/" || failed=1
    done
    return "$failed"
}

quickstart() {
    local start run
    rm -rf "$ROOT/var/cache/peft" "$ROOT/var/runs"
    for run in 1 2; do
        start=$SECONDS
        # Another seed is another trial: only the comparison of the device and its kernels are kept.
        inside runner --config quickstart --device vulkan --set recipe.epochs=1 --set seed="$run" \
            --runs /var/runs --cache /var/cache/peft/runner || return 1
        echo "start $run: $((SECONDS - start)) s"
    done
}

stages=("$@")
[[ $# -gt 0 ]] || stages=("${all[@]}")
for stage in "${stages[@]}"; do
    [[ " ${all[*]} " == *" $stage "* ]] || usage
done
ROOT=$(realpath -m "$ROOT")
RUNNER=${RUNNER:+$(realpath "$RUNNER")} TESTS=${TESTS:+$(realpath "$TESTS")}
mkdir -p "$(dirname "$ROOT")"
failed=0
for stage in "${stages[@]}"; do
    start=$SECONDS
    log=$(dirname "$ROOT")/$stage.log
    if "$stage" >"$log" 2>&1; then result=passed; else result=failed failed=1; fi
    echo "$stage: $result, $((SECONDS - start)) s ($log)"
done
exit "$failed"
