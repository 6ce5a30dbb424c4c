#!/usr/bin/env bash
# The first hour as one script: from two wheels to a prediction in PyTorch, on a machine that needs Python and no compiler.
# docs/first-hour.md quotes what stands between the lines `# page` and `# end`.
#
#   scripts/pack.py target/release/runner --out dist && pip wheel ./python --no-deps -w dist    # or the wheels of a release
#   scripts/first-hour.sh dist [SITE]
#
# `dist` is a folder with the wheels of peft-runner and peft-vision. SITE is a folder of installed Python packages with PyTorch and
# timm in it, for machines without a network; without it pip fetches them. Prints what each step took.
set -euo pipefail
wheels=$(realpath "${1:?usage: scripts/first-hour.sh WHEELS [SITE]}")
site=${2:+$(realpath "$2")}
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$folder"
cp "$wheels"/peft_runner-*.whl "$wheels"/peft_vision-*.whl .
# Nothing but the wheels and what pip fetches comes from elsewhere, so that every run of this script is the same.
export HF_HOME="$folder/hub" HF_HUB_OFFLINE=1

printf 'processor    %s, %s cores\n' "$(sed -n 's/^model name.*: //p' /proc/cpuinfo 2>/dev/null | head -1)" "$(getconf _NPROCESSORS_ONLN)"
for tool in cargo rustc cc; do
    printf '%-12s %s\n' "$tool" "$(command -v "$tool" || echo none)"
done
start=$SECONDS first=$SECONDS
# Says what has taken how long since the last call.
took() {
    printf '%-12s %d s\n' "$1" "$((SECONDS - start))"
    start=$SECONDS
}
quiet() {
    "$@" > said 2>&1 || { cat said; exit 1; }
}
# pip as a person types it, but from the packages that are there already.
pip() {
    if [ -z "$site" ]; then
        quiet command pip "$@"
        return
    fi
    echo "$site" > "$(python -c 'import site; print(site.getsitepackages()[0])')/first-hour.pth"
    quiet command pip "$1" --no-index --no-deps "${@:2}"
}

# page
python3 -m venv environment
. environment/bin/activate
pip install peft_runner-*.whl peft_vision-*.whl
# end
took install

# page
runner --config quickstart
# end
took quickstart

# Photos of a newcomer: three kinds of flowers, drawn.
python - <<'PYTHON'
import math, pathlib, random
from PIL import Image, ImageDraw, ImageFilter

random.seed(1)
kinds = {"daisy": ((240, 240, 240), 12), "poppy": ((200, 30, 30), 4), "bluebell": ((80, 80, 210), 6)}
for kind, (colour, petals) in kinds.items():
    folder = pathlib.Path("photos", kind)
    folder.mkdir(parents=True)
    for index in range(40):
        width, height = random.choice([(160, 120), (120, 160)])
        image = Image.new("RGB", (width, height), (30, random.randint(70, 130), 40))
        draw = ImageDraw.Draw(image)
        x, y, size = random.uniform(0.35, 0.65) * width, random.uniform(0.35, 0.65) * height, random.uniform(22, 34)
        shade = tuple(min(255, max(0, part + random.randint(-25, 25))) for part in colour)
        turn = random.random()
        for petal in range(petals):
            angle = 2 * math.pi * petal / petals + turn
            left, top = x + size * math.cos(angle), y + size * math.sin(angle)
            draw.ellipse([left - size / 2, top - size / 2, left + size / 2, top + size / 2], shade)
        draw.ellipse([x - 9, y - 9, x + 9, y + 9], (230, 190, 40))
        image.filter(ImageFilter.GaussianBlur(1)).save(folder / f"{index:02}.jpg", quality=88)
PYTHON
start=$SECONDS

# page
runner init photos
# end
took init

# page
runner --config photos.yaml
# end
took training

# page
run=$(echo runs/photos/*)
runner export $run --format pytorch --out exported
runner merge $run --scale 0 --out backbone.safetensors
# end
took export

cat > predict.py <<'PYTHON'
import sys

import peft_vision
from PIL import Image
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

# The bundled ViT, which timm does not publish. Of a published one, this is
# timm.create_model("vit_tiny_patch16_224.augreg_in21k", pretrained=True).
backbone = VisionTransformer(img_size=32, patch_size=4, embed_dim=80, depth=6, num_heads=5, num_classes=0)
backbone.load_state_dict({k: v for k, v in load_file("backbone.safetensors").items() if not k.startswith("head.")})

model = peft_vision.load(backbone, "exported").eval()
for path in sys.argv[1:]:
    image = model.preprocess(Image.open(path))
    probabilities = model(image[None]).softmax(-1)[0]
    print(f"{path}  {model.classes[probabilities.argmax()]}  {probabilities.max():.4f}")
PYTHON
images=(photos/*/00.jpg)
# page
python predict.py photos/*/00.jpg
# end
took prediction

# Both programs say the same of the same photos.
python predict.py "${images[@]}" > python.txt
runner predict "$run" "${images[@]}" --top 1 > runner.txt
python - <<'PYTHON'
rows = [[line.split("  ") for line in open(name).read().splitlines()] for name in ("python.txt", "runner.txt")]
assert len(rows[0]) == len(rows[1]) == 3, rows
for (path, kind, probability), (other, same, expected) in zip(*rows):
    assert (path, kind) == (other, same) and abs(float(probability) - float(expected)) < 1e-3, (path, probability, expected)
    assert f"photos/{kind}/" in path, f"{path} is taken for {kind}"
PYTHON
printf 'all          %d s\n' "$((SECONDS - first))"
