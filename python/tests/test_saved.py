"""The folders in fixtures/pytorch/saved on the models of timm and torchvision: logits, merging, saving, copies, refusals.

    python -m pytest python/tests

`fixtures/scripts/pytorch.py` computes every case; these tests need no program beside PyTorch.
"""

import copy
import io
import pathlib
import sys

import pytest
import torch
from safetensors.torch import load_file

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"
sys.path.insert(0, str(FIXTURES / "scripts"))

import bases  # noqa: E402
import peft_vision  # noqa: E402

SAVED = FIXTURES / "pytorch" / "saved"
CASES = sorted(file.parent.relative_to(SAVED).as_posix() for file in SAVED.rglob("config.json"))
GOLDEN = load_file(FIXTURES / "pytorch" / "logits.safetensors")


def loaded(case):
    return peft_vision.load(bases.backbone(bases.base_of(case)), SAVED / case).eval()


def images(case, model):
    return bases.images(bases.base_of(case), model.config["input"]["size"])


def assert_close(got, expected):
    error = (got - expected).abs().max() / expected.abs().max().clamp_min(1)
    assert error <= 1e-5, f"{error:.1e}"


def test_there_are_cases():
    assert len(CASES) == 11


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_golden_and_survive_copies_and_saving(case, tmp_path):
    model = loaded(case)
    x = images(case, model)
    assert_close(model(x), GOLDEN[case])
    twin = copy.deepcopy(model)
    for parameter in model.adapter.parameters():
        parameter.zero_()
    # What acts on a copy are the values of the copy.
    assert_close(twin(x), GOLDEN[case])
    twin.save(tmp_path)
    again = peft_vision.load(bases.backbone(bases.base_of(case)), tmp_path).eval()
    assert_close(again(x), GOLDEN[case])


@torch.no_grad()
def test_a_merged_model_computes_the_same_without_hooks():
    case = "vit_registers/lora-slices"
    model = loaded(case)
    merged = model.merged()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in merged.modules())
    assert_close(merged(images(case, model)), GOLDEN[case])
    with pytest.raises(ValueError, match="no adapter to save"):
        merged.save("anywhere")


def test_what_weights_cannot_hold_is_not_merged():
    with pytest.raises(ValueError, match="boundary 1 is not folded"):
        loaded("vit_registers/dora+vpt+ap+convpass").merged()


def test_only_what_was_trained_trains_and_all_of_it_gets_a_gradient():
    case = "swin_padded/ssf+lora+adaptformer+bias+ap"
    model = loaded(case)
    model(images(case, model)).square().sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trained) == sum(value.numel() for value in load_file(SAVED / case / "adapter.safetensors").values())
    assert all(parameter.grad is not None for parameter in trained)


def test_other_weights_are_refused():
    backbone = bases.backbone("vit_registers")
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(1.01)
    with pytest.raises(ValueError, match="trained on other weights"):
        peft_vision.load(backbone, SAVED / "vit_registers/lora-slices")
    with pytest.raises(ValueError, match="the backbone has no|expected the shape"):
        peft_vision.load(bases.backbone("swin_padded"), SAVED / "vit_registers/lora-slices")


def test_images_are_preprocessed_as_the_configuration_says():
    image = pytest.importorskip("PIL.Image").new("RGB", (80, 50), (255, 0, 0))
    model = loaded("vit_registers/lora-slices")
    pixels = model.preprocess(image)
    assert pixels.shape == (3, 32, 32)
    given = model.config["input"]
    assert_close(pixels[0, 16, 16], torch.tensor((1 - given["mean"][0]) / given["std"][0]))


@pytest.mark.parametrize("case", CASES)
def test_onnx_computes_the_same(case):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = loaded(case)
    x, buffer = images(case, model), io.BytesIO()
    torch.onnx.export(model, (x,), buffer, input_names=["images"], output_names=["logits"], dynamo=False)
    session = runtime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    assert_close(torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), GOLDEN[case])
