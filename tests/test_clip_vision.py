"""The image encoder sees what transformers' does, from either layout of its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from lib_amdm.adapters.clip_vision import MEAN, STD, ClipVision, clip_vision, has_vision, read_clip_vision
from lib_amdm.adapters.inputs import Encoder
from lib_amdm.errors import AdapterError
from lib_amdm.files.container import open_tensor_file

EMBEDS = Encoder("", "image_embeds", 24)
HIDDEN = Encoder("", "hidden_states", 128)
PUBLISHED = [("ViT-H", 1280, 5120, 32, 1024), ("ViT-bigG", 1664, 8192, 48, 1280)]


@pytest.fixture(scope="module")
def theirs() -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=7,
        projection_dim=24,
        hidden_act="gelu",
    )
    generator = torch.Generator().manual_seed(0)
    model = CLIPVisionModelWithProjection(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def file_of(model: CLIPVisionModelWithProjection) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if not key.endswith("position_ids")}


def in_open_clip_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as open_clip's files have them, beside a text encoder's."""
    inner = "vision_model.encoder.layers"
    named = {
        "visual.class_embedding": tensors["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": tensors["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": tensors["vision_model.embeddings.patch_embedding.weight"],
        "visual.proj": tensors["visual_projection.weight"].T,
        "transformer.resblocks.0.ln_1.weight": torch.ones(4),
        "logit_scale": torch.tensor(1.0),
    }
    for kind in ("weight", "bias"):
        named[f"visual.ln_pre.{kind}"] = tensors[f"vision_model.pre_layrnorm.{kind}"]
        named[f"visual.ln_post.{kind}"] = tensors[f"vision_model.post_layernorm.{kind}"]
        for n in range(3):
            start, layer = f"visual.transformer.resblocks.{n}", f"{inner}.{n}"
            packed = [tensors[f"{layer}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
            named[f"{start}.attn.in_proj_{kind}"] = torch.cat(packed)
            named[f"{start}.attn.out_proj.{kind}"] = tensors[f"{layer}.self_attn.out_proj.{kind}"]
            for ours, other in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1")):
                named[f"{start}.{ours}.{kind}"] = tensors[f"{layer}.{other}.{kind}"]
            named[f"{start}.mlp.c_proj.{kind}"] = tensors[f"{layer}.mlp.fc2.{kind}"]
    return named


def encoders(model: CLIPVisionModelWithProjection) -> list[ClipVision]:
    tensors = file_of(model)
    prefixed = {f"model.{key}": value for key, value in tensors.items()}
    return [clip_vision(each, "clip.safetensors") for each in (tensors, prefixed, in_open_clip_names(tensors))]


def test_equals_transformers(theirs: CLIPVisionModelWithProjection) -> None:
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = theirs(pixel_values=pixels, output_hidden_states=True)
    for ours in encoders(theirs):
        assert ours.size == 28
        assert (ours.encode(pixels, "image_embeds") - wanted.image_embeds).abs().max() < 1e-5
        assert (ours.encode(pixels, "hidden_states") - wanted.hidden_states[-2]).abs().max() < 1e-5


def test_the_empty_picture_is_zeros_as_ip_adapters_mean_it(theirs: CLIPVisionModelWithProjection) -> None:
    """Zeros in place of image_embeds; for hidden_states zeros in place of normalised pixels, not a black picture."""
    ours = encoders(theirs)[0]
    assert torch.equal(ours.blank(EMBEDS), torch.zeros(1, 24))
    with torch.no_grad():
        wanted = theirs(pixel_values=torch.zeros(1, 3, 28, 28), output_hidden_states=True).hidden_states[-2]
    assert (ours.blank(HIDDEN) - wanted).abs().max() < 1e-5
    assert (ours.blank(HIDDEN) - ours.features(torch.zeros(1, 3, 28, 28), HIDDEN)).abs().max() > 1e-2


@pytest.mark.parametrize("size", [(40, 28), (28, 28), (31, 77), (450, 300), (20, 14)])
def test_preprocessing_equals_pillow(theirs: CLIPVisionModelWithProjection, size: tuple[int, int]) -> None:
    """Bicubic to the short side, the middle cut out: what CLIP's own processor does with Pillow, to a level of 256."""
    height, width = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized = Image.fromarray(pixels).resize([28 * side // min(size) for side in (width, height)], Image.BICUBIC)
    left, top = (resized.width - 28) // 2, (resized.height - 28) // 2
    wanted = torch.from_numpy(np.array(resized.crop((left, top, left + 28, top + 28)))).permute(2, 0, 1) / 255
    ours = encoders(theirs)[0].preprocess(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    back = ours[0] * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert (back - wanted).abs().max() * 255 < 1.5


def test_reads_files(theirs: CLIPVisionModelWithProjection, tmp_path: Path) -> None:
    file, pickled, other = tmp_path / "clip.safetensors", tmp_path / "clip_h.pth", tmp_path / "other.safetensors"
    save_file(file_of(theirs), file)
    torch.save(file_of(theirs), pickled)
    save_file({"a.weight": torch.zeros(2)}, other)
    assert (
        has_vision(open_tensor_file(file).shapes)
        and has_vision(open_tensor_file(pickled).shapes)
        and not has_vision(open_tensor_file(other).shapes)
    )
    x = torch.rand(1, 3, 30, 40)
    assert torch.equal(read_clip_vision(file).features(x, EMBEDS), read_clip_vision(pickled).features(x, EMBEDS))
    with pytest.raises(AdapterError, match=r"other\.safetensors.*no CLIP vision encoder"):
        read_clip_vision(other)


def test_refuses_the_wrong_encoder(theirs: CLIPVisionModelWithProjection) -> None:
    ours = encoders(theirs)[0]
    assert ours.fits(EMBEDS) and ours.fits(HIDDEN) and not ours.fits(Encoder("ViT-H", "image_embeds", 1024))
    with pytest.raises(AdapterError, match=r"clip\.safetensors.*1024 wide \(ViT-H\)"):
        ours.features(torch.rand(1, 3, 28, 28), Encoder("ViT-H", "image_embeds", 1024))


def test_a_file_without_a_layer_is_refused(theirs: CLIPVisionModelWithProjection) -> None:
    tensors = file_of(theirs)
    del tensors["vision_model.encoder.layers.1.mlp.fc1.weight"]
    with pytest.raises(AdapterError, match=r"lacks tensors \(first vision_model\.encoder\.layers\.1\.mlp\.fc1\.weight"):
        clip_vision(tensors, "clip.safetensors")


@pytest.mark.parametrize(("name", "width", "inner", "layers", "projection"), PUBLISHED)
def test_the_published_encoders_are_known(name: str, width: int, inner: int, layers: int, projection: int) -> None:
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=projection,
    )
    with torch.device("meta"):
        ours = clip_vision(file_of(CLIPVisionModelWithProjection(config)), name)
    assert (ours.size, ours.heads) == (224, 16)
    assert ours.fits(Encoder(name, "image_embeds", projection)) and ours.fits(Encoder(name, "hidden_states", width))
