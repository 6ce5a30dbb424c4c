#!/usr/bin/env bash
# Runs the unit tests of ops for AArch64 under qemu, on a processor of any kind, and counts the instructions of a
# matrix product.
#
# Needs Rust's library for the target (`rustup target add aarch64-unknown-linux-gnu`), a linker for it and qemu
# (Debian's gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user). Arguments are passed to the tests, such
# as `matmul::`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=aarch64-unknown-linux-gnu
emulator="qemu-aarch64 -L /usr/aarch64-linux-gnu"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$emulator PEFT_OPS_EMULATOR=$emulator
# Optimising Burn for the target takes more than ten minutes, and only our own crate counts here.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1
build=(--release --package peft-ops --target "$target")

# Emulation is slow, so property tests have fewer cases and the largest sizes are left out.
PEFT_OPS_SHORT_TESTS=1 cargo test "${build[@]}" --lib --quiet -- "$@"

# Two of three products: what the program does besides is the same.
cargo build "${build[@]}" --example product
count() {
    RAYON_NUM_THREADS=1 $emulator -one-insn-per-tb -d exec,nochain \
        "${CARGO_TARGET_DIR:-target}/$target/release/examples/product" 96 512 128 "$1" 2>&1 >/dev/null | grep -c '^Trace'
}
printf 'product of 96 x 512 x 128: %d instructions, of which %d multiply four values\n' \
    $((($(count 3) - $(count 1)) / 2)) $((96 * 512 * 128 / 4))
