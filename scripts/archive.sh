#!/usr/bin/env bash
# Packs a built program as people download it: the binary, completions for every shell, manual pages, licence and changelog.
#
#   scripts/archive.sh RUNNER NAME      # writes NAME.tar.gz
set -euo pipefail
runner=$(realpath "${1:?usage: scripts/archive.sh RUNNER NAME}")
name=${2:?usage: scripts/archive.sh RUNNER NAME}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

mkdir -p "$folder/$name/completions"
cp "$runner" "$root/LICENSE" "$root/README.md" "$root/CHANGELOG.md" "$folder/$name"
for shell in bash zsh fish powershell elvish; do
    "$runner" completions "$shell" > "$folder/$name/completions/runner.$shell"
done
"$runner" manual --out "$folder/$name/man"
tar -C "$folder" -czf "$name.tar.gz" "$name"
printf '%s.tar.gz, %s MB\n' "$name" "$(du -m "$name.tar.gz" | cut -f1)"
