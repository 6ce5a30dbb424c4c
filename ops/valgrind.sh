#!/usr/bin/env bash
# Runs the unit tests of ops under valgrind, at every level that valgrind knows, and at the CPU's best level
# without it. Debug assertions are on, in ops only, so that Burn is not compiled again.
#
# Needs valgrind (a package of every distribution). Arguments are passed to the tests, such as `matmul::`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=profile.release.package.peft-ops
build=(cargo test --release --lib --no-run
    --config "$profile.debug-assertions=true" --config "$profile.overflow-checks=true")
# The features of the whole workspace, without which Burn would be compiled again; but nothing is waited for
# beyond the tests of ops, which are among the first.
tests=$("${build[@]}" --message-format=json 2>/dev/null |
    sed -n 's/.*"name":"peft[-_]ops".*"executable":"\([^"]*\)".*/\1/p;T;q') || true
if [[ -z $tests ]]; then
    "${build[@]}"
    exit 1
fi

# Everything takes 50 times as long under valgrind, so property tests have fewer cases and the largest sizes
# are left out. Its threads take turns, so one test at a time is as fast; two threads for the tasks of a test
# are enough for two to meet. Valgrind answers CPUID for a processor of its own, which has other caches than the
# system says.
export PEFT_OPS_SHORT_TESTS=1
for level in baseline $(grep -qsw avx2 /proc/cpuinfo && echo avx2); do
    printf 'valgrind, PEFT_OPS=%s\n' "$level"
    PEFT_OPS=$level RAYON_NUM_THREADS=2 valgrind --quiet --error-exitcode=1 \
        "$tests" --quiet --test-threads=1 --skip the_processor_and_the_system_agree "$@"
done

# Valgrind has no AVX-512. At the best level the assertions alone look for mistakes.
unset PEFT_OPS_SHORT_TESTS
printf 'best level\n'
"$tests" --quiet "$@"
