from __future__ import annotations

import importlib.util
import urllib.error

import pytest
import torch
from torch import nn

from dgbench import backbones
from dgbench.errors import UsageError
from dgbench.networks import Network, NetworkOptions, build_network

SHAPE = (3, 32, 32)
has_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm: pip install 'dgbench[timm]'"
)


def resnet(**options) -> Network:
    return build_network(NetworkOptions(**{"backbone": "resnet18", **options}), SHAPE, 5, seed=0)


@pytest.fixture(scope="module")
def published() -> nn.Module:
    """A ResNet-18 of 1,000 classes as its authors publish one, with weights of its own."""
    from torchvision import models  # type: ignore[import-untyped]

    with torch.random.fork_rng():
        torch.manual_seed(3)
        return models.resnet18(weights=None)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_a_file_gives_the_published_networks_features_of_normalised_images(
    published, images, tmp_path
):
    torch.save({"state_dict": published.state_dict()}, tmp_path / "weights.pt")
    ours = resnet(weights=str(tmp_path / "weights.pt")).eval()
    published.fc = nn.Identity()
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        expected = published.eval()((images - mean) / std)
        torch.testing.assert_close(ours.featurizer(images), expected, rtol=1e-4, atol=1e-5)
        assert ours(images).shape == (4, 5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("conv1.weight"), "lacks conv1.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "unknown extra"),
        (
            lambda state: state.update({"bn1.bias": torch.zeros(3)}),
            r"bn1.bias \(3,\) where \(64,\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, named, tmp_path):
    state = dict(resnet().featurizer[1].state_dict())  # type: ignore[index]
    change(state)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(UsageError, match=named):
        resnet(weights=str(tmp_path / "weights.pt"))


@pytest.mark.parametrize("content", [b"no state dict", b""])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read as a state dict"):
        resnet(weights=str(tmp_path / "weights.pt"))


def test_without_a_network_the_cache_folder_and_the_way_out_are_named(monkeypatch, tmp_path):
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UsageError, match="no route to host") as refused:
        resnet(weights="default")
    assert str(tmp_path / "checkpoints" / "resnet18-f37072fd.pth") in str(refused.value)
    assert "--network.weights FILE" in str(refused.value)


def test_default_names_the_first_weights_of_torchvision():
    from torchvision import models

    for name, family in backbones.TORCHVISION.items():
        known = getattr(models, family).IMAGENET1K_V1
        assert name in known.url
        assert known.meta["num_params"] > 1e7


def test_frozen_batch_normalisation_sees_no_batch(images):
    frozen = resnet(batch_norm="frozen").train()
    before = {name: value.clone() for name, value in frozen.named_buffers()}
    alone, together = frozen(images[:1]), frozen(images)
    torch.testing.assert_close(alone, together[:1])
    assert all(torch.equal(before[name], value) for name, value in frozen.named_buffers())
    assert frozen.featurizer[1].bn1.weight.requires_grad  # type: ignore[index]

    usual = resnet().train()
    assert not torch.allclose(usual(images[:2])[:1], usual(images)[:1])


def test_dropout_acts_while_training_alone(images):
    network = resnet(dropout=0.5, batch_norm="frozen")
    torch.manual_seed(0)
    features = network.train().featurizer(images)
    assert 0.3 < (features == 0).float().mean() < 0.7
    network.eval()
    assert torch.equal(network(images), network(images))


def test_channels_last_and_bf16_give_the_same_network(images):
    plain, laid_out = (resnet(channels_last=flag).eval() for flag in (False, True))
    weight = laid_out.featurizer[1].conv1.weight  # type: ignore[index]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = plain(images)
        torch.testing.assert_close(laid_out(images), expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(
                laid_out(images).float(),
                expected,
                rtol=0.1,
                atol=0.1 * expected.std().item() + 0.05,
            )


def test_the_seed_decides_random_weights_and_leaves_the_global_state_alone():
    torch.manual_seed(9)
    state = torch.get_rng_state()
    first, again = resnet().state_dict(), resnet().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


# Records


def test_a_file_is_recorded_by_its_content(published, tmp_path):
    for name in ("one.pt", "two.pt"):
        torch.save({"a": torch.zeros(1)}, tmp_path / name)
    (tmp_path / "two.pt").write_bytes((tmp_path / "one.pt").read_bytes())
    (tmp_path / "three.pt").write_bytes(b"another")
    one, two, three = (
        NetworkOptions("resnet18", weights=str(tmp_path / f"{name}.pt")).deciding()
        for name in ("one", "two", "three")
    )
    assert one == two != three
    assert one["weights"].startswith("sha256:")
    assert str(tmp_path) not in str(one)
    with pytest.raises(UsageError, match="give the file"):
        resnet(weights=one["weights"])
    with pytest.raises(UsageError, match="cannot be read"):
        NetworkOptions("resnet18", weights=str(tmp_path / "gone.pt")).deciding()


def test_everything_that_a_published_backbone_is_made_of_is_recorded():
    assert NetworkOptions("resnet50", weights="default", batch_norm="frozen").deciding() == {
        "backbone": "resnet50",
        "logits": "all",
        "weights": "default",
        "batch_norm": "frozen",
        "dropout": 0.0,
        "channels_last": False,
    }


def test_options_that_do_nothing_do_not_move_older_records():
    assert NetworkOptions("mlp", 64).deciding() == {"backbone": "mlp", "width": 64, "logits": "all"}
    assert NetworkOptions("mlp", dropout=0.1).deciding()["dropout"] == 0.1


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet19"}, "There is no network.backbone 'resnet19'"),
        ({"backbone": "mlp", "weights": "default"}, "neither published weights nor"),
        ({"backbone": "small_cnn", "batch_norm": "frozen"}, "neither published weights nor"),
        ({"backbone": "resnet18", "dropout": 1.0}, "from 0 up to"),
    ],
)
def test_options_that_fit_no_network_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        NetworkOptions(**options)


def test_published_backbones_take_images_of_three_channels():
    with pytest.raises(UsageError, match="takes images"):
        build_network(NetworkOptions("resnet18"), (2, 28, 28), 2, 0)


# timm


@has_timm
def test_any_model_of_timm_is_a_backbone(images):
    network = build_network(NetworkOptions("timm/test_resnet"), SHAPE, 5, 0).eval()
    assert network(images).shape == (4, 5)
    assert network.featurizer[0].scale.shape == (1, 3, 1, 1)  # type: ignore[index]


@has_timm
def test_timms_default_weights_are_recorded_with_their_tag():
    named = NetworkOptions("timm/resnet18", weights="default").deciding()["backbone"]
    assert named.startswith("timm/resnet18.")
    assert NetworkOptions(named, weights="default").deciding()["backbone"] == named


@has_timm
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/resnet81", "Did you mean timm/resnet"),
        ("timm/vit_tiny_patch16_224", "--data.image_size"),
    ],
)
def test_models_that_timm_has_not_or_that_take_other_sizes(name, message):
    with pytest.raises(UsageError, match=message):
        build_network(NetworkOptions(name), SHAPE, 5, 0)
