#!/usr/bin/env bash
# Tests a wheel of the program as a newcomer meets it: a fresh environment, `pip install`, the first run. Prints the wheel's size
# and what each step took.
#
#   scripts/wheel.sh WHEEL [PYTHON]
set -euo pipefail
wheel=$(realpath "${1:?usage: scripts/wheel.sh WHEEL [PYTHON]}")
python=${2:-python3}
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$folder"

printf 'wheel        %s, %s MB\n' "$(basename "$wheel")" "$(du -m "$wheel" | cut -f1)"
"$python" -m venv environment
programs=environment/bin
[ -d "$programs" ] || programs=environment/Scripts
start=$SECONDS
"$programs/python" -m pip install --quiet --no-index --no-deps "$wheel"
printf 'pip install  %d s\n' "$((SECONDS - start))"
"$programs/runner" --version
start=$SECONDS
"$programs/runner" --config quickstart --device cpu --runs runs > said 2>&1 || { cat said; exit 1; }
printf 'quickstart   %d s\n' "$((SECONDS - start))"
grep 'test top-1' said
