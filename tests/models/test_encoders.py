"""Encoders of every kind. If these fail, methods do not have the networks that their papers name, or the contract that
lets any of them take the place of another is broken."""

import pytest
import torch
from torch import Tensor

from lookhear.errors import ConfigError
from lookhear.models.encoders import ENCODERS, Encoder, EncoderConfig, InputSize, grid_of
from lookhear.models.tokens import Grid, mask_from_removed

SMALL: dict[str, EncoderConfig] = {
    "resnet": EncoderConfig(width=32, blocks=(1, 1, 1, 1)),
    "plain": EncoderConfig(kind="plain", width=32, blocks=(1, 1, 1, 1), stem_pool=False, strides=(1, 2, 2, 1)),
    "r2plus1d": EncoderConfig(kind="r2plus1d", width=32, blocks=(1, 1, 1, 1)),
    "wide": EncoderConfig(kind="r2plus1d", width=32, blocks=(1, 1, 1, 1), widened=True),
    "apart": EncoderConfig(width=32, blocks=(1, 1), strides=(1, 2), pictures="apart"),
    "first": EncoderConfig(width=32, blocks=(1, 1), strides=(1, 2), pictures="first"),
    "vit": EncoderConfig(kind="vit", width=32, blocks=(1, 0, 1), patch=(8, 8), heads=2),
    "stem": EncoderConfig(kind="vit", width=32, blocks=(1,), patch=(8, 8), heads=2, stem_channels=(8, 16)),
}
SIZE = InputSize(channels=3, rows=48, columns=64, pictures=4)


def make(config: EncoderConfig, size: InputSize = SIZE) -> Encoder:
    torch.manual_seed(0)
    return Encoder(config, size).eval()


def windows(rows: int = 2, size: InputSize = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, size.pictures * size.channels, size.rows, size.columns, generator=generator)


def parameters(config: EncoderConfig, size: InputSize) -> int:
    with torch.device("meta"):
        return sum(value.numel() for value in Encoder(config, size).parameters())


CLIP = InputSize(channels=3, rows=224, columns=224, pictures=8)
SOUND = InputSize(channels=1, rows=257, columns=200)
PICTURE = InputSize(channels=3, rows=224, columns=224)


@pytest.mark.parametrize(
    ("config", "size", "millions"),
    [
        (EncoderConfig(kind="r2plus1d"), CLIP, 15.38),  # AVID
        (EncoderConfig(kind="r2plus1d", blocks=(1, 1, 1, 1), stem_pool=False), CLIP, 7.02),  # its small one
        (EncoderConfig(kind="r2plus1d", widened=True), CLIP, 33.18),  # CCL: a true 18-layer one
        (EncoderConfig(kind="r2plus1d", blocks=(1, 1, 1, 1), widened=True), CLIP, 14.37),  # what CCL built
        (EncoderConfig(kind="plain", blocks=(1,) * 4, strides=(2, 2, 2, 1), stem_pool=False), SOUND, 4.73),
        (EncoderConfig(), PICTURE, 11.18),  # ResNet-18 without its 1000 classes
        (EncoderConfig(blocks=(3, 4, 6, 3)), PICTURE, 21.28),
    ],
)
def test_published_networks_have_their_published_sizes(config: EncoderConfig, size: InputSize, millions: float) -> None:
    assert round(parameters(config, size) / 1e6, 2) == millions


def test_published_maps() -> None:
    """The stages of AVID's networks: 64x8x56x56 to 512x1x7x7, and 64x50x65 to 512x13x17 (time first)."""
    with torch.device("meta"):
        video = Encoder(EncoderConfig(kind="r2plus1d"), CLIP)
        found = video(torch.empty(1, 24, 224, 224))
        sound = Encoder(EncoderConfig(kind="plain", blocks=(1,) * 4, strides=(2, 2, 2, 1), stem_pool=False), SOUND)
        heard = sound(torch.empty(1, 1, 257, 200))
    shapes = [tuple(maps.shape[1:]) for maps in found.stages]
    assert shapes == [(64, 8, 56, 56), (128, 4, 28, 28), (256, 2, 14, 14), (512, 1, 7, 7)]
    shapes = [tuple(maps.shape[1:]) for maps in heard.stages]
    assert shapes == [(64, 65, 50), (128, 33, 25), (256, 17, 13), (512, 17, 13)]


def test_the_sound_of_listen_to_look_leaves_three_bands() -> None:
    """101 x 40 becomes 7 x 3, which its learned map over frequency expects."""
    config, size = EncoderConfig(stem_stride=1, pooling="frequency"), InputSize(channels=1, rows=40, columns=101)
    encoder = make(EncoderConfig(width=64, stem_stride=1, pooling="frequency"), size)
    assert grid_of(config, size) == encoder.grid == Grid(3, 7)
    assert encoder.frequency is not None
    found = encoder(windows(2, size))
    bands = encoder.frequency.weight[0]
    slow = (found.stages[-1] * bands[:, None]).sum(2).amax(2) + encoder.frequency.bias
    torch.testing.assert_close(found.pooled, slow)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [SIZE, InputSize(channels=1, rows=40, columns=24)], ids=["pictures", "spectrogram"])
def test_one_contract(name: str, size: InputSize) -> None:
    encoder = make(SMALL[name], size)
    for rows in (1, 3):
        found = encoder(windows(rows, size))
        assert found.grid == encoder.grid == grid_of(SMALL[name], size)
        assert found.pooled.shape == (rows, encoder.out_dim)
        assert found.tokens.shape == (rows, found.grid.num_tokens, encoder.out_dim)
        assert len(found.stages) == len(SMALL[name].blocks)
        last = found.stages[-1]
        assert tuple(last.shape[-2:]) == (found.grid.rows, found.grid.columns)
        over_time = last if last.ndim == 4 else last.mean(2)
        torch.testing.assert_close(found.tokens, over_time.flatten(2).transpose(1, 2))
        torch.testing.assert_close(found.pooled, found.tokens.mean(1))
    assert {config.kind for config in SMALL.values()} == set(ENCODERS)


@pytest.mark.parametrize("name", ["resnet", "r2plus1d", "apart"])
def test_the_largest_over_place_and_time(name: str) -> None:
    config = EncoderConfig(**{**vars(SMALL[name]), "pooling": "max"})
    found = make(config)(windows())
    torch.testing.assert_close(found.pooled, found.stages[-1].flatten(2).amax(2))


def test_what_each_kind_makes_of_several_pictures() -> None:
    values = windows()
    still = values[:, :3].repeat(1, 4, 1, 1)
    others = torch.cat([values[:, :3], windows(2).roll(1, 0)[:, 3:]], dim=1)
    first = make(SMALL["first"])
    assert torch.equal(first(values).pooled, first(others).pooled)
    apart = make(SMALL["apart"])
    one = make(SMALL["apart"], InputSize(channels=3, rows=48, columns=64))
    one.load_state_dict(apart.state_dict())
    torch.testing.assert_close(apart(still).pooled, one(values[:, :3]).pooled)
    shuffled = values.unflatten(1, (4, 3)).flip(1).flatten(1, 2)
    torch.testing.assert_close(apart(values).pooled, apart(shuffled).pooled)  # order does not matter to it
    clip = make(SMALL["r2plus1d"])
    assert not torch.allclose(clip(values).pooled, clip(shuffled).pooled)


@pytest.mark.parametrize("name", SMALL)
def test_what_a_mask_removes_is_not_seen(name: str) -> None:
    encoder = make(SMALL[name])
    cells = encoder.grid.num_tokens
    removed = torch.arange(cells).expand(2, -1) % 3 == 0
    mask = mask_from_removed(removed)
    values = windows()
    hidden = encoder._shown(mask, values) == 0
    found = encoder(values, mask)
    changed = encoder(torch.where(hidden, 9.0 * torch.ones_like(values), values), mask)
    assert torch.equal(found.pooled, changed.pooled)
    assert found.tokens.shape == (2, cells - int(removed[0].sum()), encoder.out_dim)
    everything = mask_from_removed(torch.zeros(2, cells, dtype=torch.bool))
    torch.testing.assert_close(encoder(values, everything).tokens, encoder(values).tokens)


@pytest.mark.parametrize("norm", ["group", "layer", "instance"])
def test_norms_that_do_not_look_at_other_rows(norm: str) -> None:
    for kind in ("resnet", "r2plus1d"):
        encoder = make(EncoderConfig(kind=kind, width=32, blocks=(1, 1), strides=(1, 2), norm=norm)).train()
        values = windows(3)
        torch.testing.assert_close(encoder(values).pooled[:1], encoder(values[:1]).pooled)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ConfigError, match="no encoder 'resnets'; did you mean 'resnet'"):
        EncoderConfig(kind="resnets")
    with pytest.raises(ConfigError, match="patch does nothing for an encoder of kind 'resnet'"):
        EncoderConfig(patch=(8, 8))
    with pytest.raises(ConfigError, match="strides does nothing for an encoder of kind 'vit'"):
        EncoderConfig(kind="vit", strides=(1, 1, 1, 1))
    with pytest.raises(ConfigError, match=r"2 stages .* and 4 strides"):
        EncoderConfig(blocks=(1, 1))
    with pytest.raises(ConfigError, match="must halve 3 times"):
        EncoderConfig(width=36)
    with pytest.raises(ConfigError, match="every stage of a convolutional encoder needs a block"):
        EncoderConfig(blocks=(1, 0, 1, 1))
    with pytest.raises(ConfigError, match="patches of 16 x 16 do not fill 40 x 24"):
        make(EncoderConfig(kind="vit", width=32, heads=2, blocks=(1,)), InputSize(channels=1, rows=40, columns=24))
