#!/bin/sh
# Installs the LLVM that the features cuda and rocm link where CubeCL's build script looks for it, from wheels of
# Python's package index: static libraries of LLVM 23 with the targets X86, NVPTX and AMDGPU, for Linux on x86-64.
#
#   scripts/llvm.sh
#
# Needs python3 with pip. pip compares each wheel with the hash below. On another system nothing is installed, and
# CubeCL's build script downloads its own bundle.
set -eu
cd "$(dirname "$0")/.."

if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
    echo "$0: expected Linux on x86_64, got $(uname -s) on $(uname -m); the build downloads an LLVM there" >&2
    exit 2
fi

# The folder is named after the version of the build script.
version=$(sed -n '/^name = "tracel-llvm-bundler"$/{n;s/^version = "\(.*\)"$/\1/p;}' Cargo.lock)
case $version in
23.*) ;;
*)
    echo "$0: Cargo.lock: expected tracel-llvm-bundler 23, got '$version'; the wheels below are of LLVM 23" >&2
    exit 1
    ;;
esac
place=${XDG_DATA_HOME:-$HOME/.local/share}/tracel/tracel-llvm-$version
# The build script downloads nothing where this file is.
installed=$place/.tracel-llvm-installed
if [ -e "$installed" ]; then
    echo "$place: installed already"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/requirements.txt" <<'END'
mlc-llvm-static==23.1.1.post0 \
    --hash=sha256:dcfec888abfaa418be77d41af585805f31463584cf9c90582992c00f392c1ac5
mlc-llvm-static-extra-targets==23.1.1.post0 \
    --hash=sha256:c36e834d9a4e9cf9759f27fece65711ece7a2fc2b5a96dbb15d66f5e9e787929
END
python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes \
    --dest "$work" --requirement "$work/requirements.txt"
for wheel in "$work"/*.whl; do
    python3 -m zipfile -e "$wheel" "$work/wheels"
done
# Unpacking by Python loses the permission to run.
chmod +x "$work/wheels/mlc_llvm_static/static/bin/llvm-config"

# It is moved into its place at once, so that an interrupted script leaves nothing that looks complete.
mkdir -p "$(dirname "$place")"
rm -rf "$place" "$place.new"
cp -R "$work/wheels/mlc_llvm_static/static" "$place.new"
touch "$place.new/.tracel-llvm-installed"
mv "$place.new" "$place"
"$place/bin/llvm-config" --version --targets-built
echo "$place: installed"
