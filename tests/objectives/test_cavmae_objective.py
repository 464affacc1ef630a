"""The CAV-MAE objective against numbers of the public models, and its options against each other.

If the golden tests fail, a run from here does not learn what the published runs learned.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.errors import ConfigError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESync, CAVMAESyncConfig
from lookhear.models.published import PublishedChoices, load_published, to_published
from lookhear.models.tokens import MaskConfig, Masks, decode_some, mask_from_noise
from lookhear.objectives import CAVMAEObjectiveConfig
from lookhear.recipes import RECIPES
from lookhear.training.optim import OptimConfig, build_optimizer

TINY = Path(__file__).parent.parent / "golden" / "tiny"
CASES = ["cavmae_normpix", "cavmae_nonorm", "sync_released_flags", "sync_registers_only"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldenDraws(Draws):
    """The uniform numbers that the public model drew."""

    noise: dict[str, Tensor]

    def uniform(self, index: Tensor, count: int, *, purpose: str) -> Tensor:
        return self.noise[purpose]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Golden:
    model: CAVMAE
    batch: Batch
    draws: GoldenDraws
    config: CAVMAEObjectiveConfig
    values: dict[str, Tensor]


def golden(stem: str) -> Golden:
    values = load_file(TINY / f"{stem}.io.safetensors")
    flags = json.loads((TINY / "configs.json").read_text(encoding="utf-8"))[stem]
    weights = TINY / f"{'cavmae' if stem.startswith('cavmae') else stem}.pth"
    heads = PublishedChoices(heads=flags["num_heads"], decoder_heads=flags["decoder_num_heads"])
    model = load_published(weights, choices=heads).model.train()
    assert isinstance(model, CAVMAE)
    rows = len(values["audio_f16"])
    batch = Batch(
        clip_ids=tuple(map(str, range(rows))),
        index=torch.arange(rows),  # in the public training form every row is a clip of its own
        start_seconds=torch.zeros(rows, 1, dtype=torch.float64),
        audio=values["audio_f16"].float()[:, None],
        frames=((values["image_u8"].float() / 255 - 0.5) / 0.25)[:, None],
    )
    draws = GoldenDraws(
        seed=0, epoch=0, noise={"mask audio": values["noise_audio"], "mask visual": values["noise_image"]}
    )
    weight = 0.1 if stem.startswith("sync") else 0.01
    config = CAVMAEObjectiveConfig(normalise_patches=flags["norm_pix_loss"], contrastive_weight=weight)
    return Golden(model=model, batch=batch, draws=draws, config=config, values=values)


def close(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    return bool((found.detach() - wanted).abs().max() <= tolerance)


@pytest.mark.parametrize("stem", CASES)
def test_losses_of_the_public_models(stem: str) -> None:
    case = golden(stem)
    step = case.config.build(case.model)(case.model, case.batch, case.draws)
    assert close(step.loss, case.values["loss"], 1e-5)
    assert close(step.terms["reconstruction_audio"], case.values["loss_mae_audio"], 1e-5)
    assert close(step.terms["reconstruction_visual"], case.values["loss_mae_image"], 1e-5)
    assert close(step.terms["contrastive"], case.values["loss_contrastive_weighted"], 1e-5)
    assert close(step.report["contrastive_accuracy"], case.values["contrastive_accuracy"], 1e-6)


@pytest.mark.parametrize("stem", CASES[:2])
def test_other_ratios_and_weights(stem: str) -> None:
    case = golden(stem)
    config = dataclasses.replace(
        case.config, mask=MaskConfig(audio=0.5, visual=0.85), reconstruction_weight=2.0, contrastive_weight=0.1
    )
    step = config.build(case.model)(case.model, case.batch, case.draws)
    wanted = {name.split(".")[-1]: value for name, value in case.values.items() if name.startswith("ratios_")}
    assert close(step.loss, wanted["loss"], 1e-5)
    assert close(step.terms["reconstruction_audio"] / 2, wanted["loss_mae_audio"], 1e-5)
    assert close(step.terms["contrastive"], wanted["loss_contrastive_weighted"], 1e-5)


@pytest.mark.parametrize("stem", CASES)
def test_gradients_of_the_public_models(stem: str) -> None:
    case = golden(stem)
    case.config.build(case.model)(case.model, case.batch, case.draws).loss.backward()
    found = to_published(case.model, {name: p.grad for name, p in case.model.named_parameters() if p.grad is not None})
    names = [name.removeprefix("grad.") for name in case.values if name.startswith("grad.")]
    assert names
    for name in names:
        assert close(found[name], case.values[f"grad.{name}"], 1e-6), name


@pytest.mark.parametrize("decay", [5e-7, 0.1])
def test_ten_steps_of_the_published_optimiser(decay: float) -> None:
    case = golden("cavmae_normpix")
    objective = case.config.build(case.model)
    config = OptimConfig(
        name="adam",
        learning_rate=1e-3,
        betas=(0.95, 0.999),
        weight_decay=decay,
        decay_vectors=True,
        schedule="constant",
    )
    optimizer = build_optimizer(config, [case.model])
    losses = []
    for _ in range(10):
        step = objective(case.model, case.batch, case.draws)
        losses.append(step.loss.detach())
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
    assert close(torch.stack(losses), case.values[f"adam_lr1e-3_betas0.95_0.999_wd{decay:g}_losses"], 1e-4)


# ---- options


SMALL = CAVMAEConfig(
    audio_frames=32,
    num_mel_bins=32,
    picture_height=16,
    picture_width=24,
    audio_patch=(16, 8),
    picture_patch=(8, 8),
    width=16,
    heads=2,
    audio_depth=1,
    visual_depth=1,
    decoder_depth=1,
    decoder_width=16,
    decoder_heads=2,
)


def small_model(**changes: Any) -> CAVMAE:
    torch.manual_seed(0)
    return CAVMAE(dataclasses.replace(SMALL, **changes))


def small_batch(clips: int = 3, windows: int = 2, *, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        clip_ids=tuple(map(str, range(clips))),
        index=torch.arange(clips),
        start_seconds=torch.arange(windows, dtype=torch.float64).expand(clips, windows),
        audio=torch.randn(clips, windows, 32, 32, generator=generator),
        frames=torch.randn(clips, windows, 3, 16, 24, generator=generator),
    )


def small_step(config: CAVMAEObjectiveConfig, batch: Batch | None = None, *, epoch: int = 0) -> Any:
    model = small_model()
    return config.build(model)(model, batch or small_batch(), Draws(seed=0, epoch=epoch))


def test_terms_sum_to_the_loss_and_follow_the_weights() -> None:
    step = small_step(CAVMAEObjectiveConfig(mask=MaskConfig(audio=0.5, visual=0.5), contrastive_weight=0.3))
    torch.testing.assert_close(sum(step.terms.values()), step.loss)
    assert set(step.terms) == {"reconstruction_audio", "reconstruction_visual", "contrastive"}
    assert set(small_step(CAVMAEObjectiveConfig(reconstruction_weight=0)).terms) == {"contrastive"}
    without = small_step(CAVMAEObjectiveConfig(contrastive_weight=0))
    assert set(without.terms) == {"reconstruction_audio", "reconstruction_visual"}
    assert without.report == {}


@pytest.mark.parametrize("structure", ["unstructured", "time"])
def test_decoding_all_that_was_removed_is_the_exact_objective(structure: Any) -> None:
    """The order in which a transformer is given its tokens is nothing to it: seen ones first gives the same."""
    model, batch = small_model(), small_batch()
    assert batch.audio is not None
    mask = MaskConfig(audio=0.5, visual=0.75, audio_structure=structure)
    masks = model.draw_masks(len(batch) * 2, mask, generator=torch.Generator().manual_seed(0))
    assert masks.audio is not None
    assert masks.visual is not None
    every = Masks(audio=decode_some(masks.audio, 1.0), visual=decode_some(masks.visual, 1.0))
    found, wanted = (model(batch.audio, batch.frames, mask=chosen).reconstruction for chosen in (every, masks))
    for name, own in (("audio", every.audio), ("visual", every.visual)):
        assert own is not None
        assert own.decoded is not None
        assert torch.equal(own.removed.gather(1, own.decoded), torch.ones_like(own.decoded, dtype=torch.bool))
        for part in (name, f"{name}_patches"):
            whole = getattr(wanted, part).flatten(0, 1)
            places = own.decoded[..., None].expand(-1, -1, whole.shape[2])
            torch.testing.assert_close(getattr(found, part).flatten(0, 1), whole.gather(1, places))


def test_decoding_some_scores_some() -> None:
    config = CAVMAEObjectiveConfig(mask=MaskConfig(audio=0.5, visual=0.75), decode_share=0.25)
    step = small_step(config)
    assert 0.5 < float(step.loss.detach() / small_step(dataclasses.replace(config, decode_share=1.0)).loss.detach()) < 2
    step.loss.backward()
    model = small_model()
    masks = model.draw_masks(3, config.mask, generator=torch.Generator().manual_seed(0))
    assert masks.visual is not None
    some = decode_some(masks.visual, 0.25)
    assert some.decoded is not None
    removed = int(masks.visual.removed[0].sum())
    assert some.decoded.shape == (3, round(removed / 4))
    assert decode_some(masks.visual, 1e-9).decoded.shape == (3, 1)  # type: ignore[union-attr]


def test_no_recipe_decodes_less_than_was_removed() -> None:
    """What is published is the exact objective."""
    shares = {name: getattr(make().objective, "decode_share", 1.0) for name, make in RECIPES.items()}
    assert set(shares.values()) == {1.0}, shares


def test_a_pass_of_its_own_for_contrast() -> None:
    """Ratio 0: contrast sees everything, so the loss does not depend on the draw; otherwise it does."""

    def contrastive(ratio: float | None, epoch: int) -> float:
        config = CAVMAEObjectiveConfig(contrastive_weight=1.0, contrastive_mask_ratio=ratio)
        return float(small_step(config, epoch=epoch).terms["contrastive"].detach())

    assert contrastive(0.0, epoch=0) == contrastive(0.0, epoch=1)
    assert contrastive(0.5, epoch=0) != contrastive(0.5, epoch=1)
    assert contrastive(None, epoch=0) != contrastive(0.75, epoch=0), "the second pass draws a mask of its own"


def test_a_clip_is_masked_alike_in_any_batch() -> None:
    """The reconstruction of a batch is the mean of its clips' alone: nothing depends on who else is there."""
    config = CAVMAEObjectiveConfig(contrastive_weight=0, mask=MaskConfig(audio=0.5, visual=0.5))
    batch = small_batch()
    assert batch.audio is not None
    assert batch.frames is not None
    whole = small_step(config, batch)
    alone = [
        small_step(
            config,
            Batch(
                clip_ids=(str(row),),
                index=batch.index[row : row + 1],
                start_seconds=batch.start_seconds[row : row + 1],
                audio=batch.audio[row : row + 1],
                frames=batch.frames[row : row + 1],
            ),
        ).loss
        for row in range(3)
    ]
    torch.testing.assert_close(torch.stack(alone).mean(), whole.loss, rtol=1e-5, atol=1e-6)


def test_overlapping_windows_are_no_negatives() -> None:
    """Two windows of one clip, 0.32 s long: negatives of each other side by side, not 0.1 s apart."""
    config = CAVMAEObjectiveConfig(reconstruction_weight=0, contrastive_weight=1.0)

    def loss(config: CAVMAEObjectiveConfig, second_start: float) -> float:
        start = torch.tensor([[0.0, second_start]], dtype=torch.float64)
        batch = dataclasses.replace(small_batch(clips=1), start_seconds=start)
        return float(small_step(config, batch).loss.detach())

    assert loss(config, 0.1) == 0
    assert loss(config, 0.32) > 0
    assert loss(dataclasses.replace(config, same_clip_negatives=False), 0.32) == 0


@pytest.mark.parametrize("structure", ["time", "frequency", "both"])
def test_structured_masks_train(structure: Any) -> None:
    mask = MaskConfig(audio=0.5, visual=0.5, audio_structure=structure)
    small_step(CAVMAEObjectiveConfig(mask=mask)).loss.backward()


def test_ratios_are_drawn_once_a_step() -> None:
    """Both between the bounds, anew in every step, the same for every batch of it: ranks must keep equally many."""
    config = CAVMAEObjectiveConfig(mask_ratio_range=(0.2, 0.8), contrastive_weight=1.0)
    model = small_model()
    objective = config.build(model)
    seen: list[Masks] = []
    model.register_forward_pre_hook(lambda _, __, given: seen.append(given["mask"]), with_kwargs=True)
    for step in range(40):
        for batch in (small_batch(clips=2), small_batch(clips=1)):
            objective(model, batch, Draws(seed=0, epoch=0, step=step))
    kept = [(masks.audio.kept.shape[1], masks.visual.kept.shape[1]) for masks in seen if masks.audio and masks.visual]
    assert len(kept) == 80
    assert kept[::2] == kept[1::2]
    audio, visual = ({counts[side] for counts in kept} for side in (0, 1))
    assert {2, 3, 4, 5} <= audio <= set(range(1, 7)), "8 tokens of sound keep int(8 x 0.2 to 0.8)"
    assert {2, 3, 4} <= visual <= set(range(1, 5)), "6 of the picture"
    assert len({more - fewer for more, fewer in kept}) > 3, "each modality has a ratio of its own"
    fixed = CAVMAEObjectiveConfig(mask_ratio_range=(0.5, 0.5))
    halves = CAVMAEObjectiveConfig(mask=MaskConfig(audio=0.5, visual=0.5))
    torch.testing.assert_close(small_step(fixed).loss, small_step(halves).loss)


@pytest.mark.parametrize(
    "sizes",
    [
        SMALL,
        dataclasses.replace(SMALL, joint_depth=2, audio_tower="conv", visual_tower="conv"),
        CAVMAESyncConfig(**vars(SMALL) | {"joint_depth": 2}, num_registers=2, contrastive_head_depth=1),
        CAVMAESyncConfig(**vars(SMALL), num_registers=2, keep_registers=True, num_global_tokens=0),
    ],
    ids=["cavmae", "conv", "sync", "sync without global token"],
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reconstruction_weight": 0.0},
        {"contrastive_weight": 0.0},
        {"mask_ratio_range": (0.3, 0.8)},
        {"contrastive_mask_ratio": 0.0, "local_share": 0.5},
    ],
    ids=["both", "contrast", "reconstruction", "drawn ratio", "two passes"],
)
def test_one_clip_one_window(sizes: CAVMAEConfig, changes: dict[str, Any]) -> None:
    """Every model and mode at B = N = 1, on a picture that is not square: nothing to confuse, all to reconstruct."""
    torch.manual_seed(0)
    model = CAVMAESync(sizes) if isinstance(sizes, CAVMAESyncConfig) else CAVMAE(sizes)
    config = CAVMAEObjectiveConfig(direction="both", **changes)
    step = config.build(model)(model, small_batch(clips=1, windows=1), Draws(seed=0, epoch=0))
    assert float(step.terms.get("contrastive", torch.zeros(())).detach()) == 0
    assert (float(step.loss.detach()) > 0) == (config.reconstruction_weight > 0)
    step.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_clip_that_comes_again_is_masked_anew() -> None:
    """Drawn with replacement, a clip may come twice; where each comes once, its number in the store decides alone."""
    batch = small_batch(clips=2, windows=1)
    twice = dataclasses.replace(batch, index=torch.tensor([5, 5]), repeat=torch.tensor([0, 1]))
    once = dataclasses.replace(twice, repeat=None)
    model, plain = small_model(), Draws(seed=0, epoch=0)
    seen: dict[str, Tensor] = {}

    class Seen(Draws):
        def uniform(self, index: Tensor, count: int, *, purpose: str) -> Tensor:
            seen[purpose] = super().uniform(index, count, purpose=purpose)
            return seen[purpose]

    for given, same in ((once, True), (twice, False)):
        CAVMAEObjectiveConfig().build(model)(model, given, Seen(seed=0, epoch=0))
        assert seen.keys() == {"mask audio", "mask visual"}
        for purpose, drawn in seen.items():
            own = plain.uniform(given.index, drawn.shape[1], purpose=purpose)
            assert torch.equal(drawn[0], own[0]), "the first time the numbers are those of the clip"
            assert torch.equal(drawn[0], drawn[1]) == same


def test_global_and_local_are_averaged() -> None:
    losses = [
        float(
            small_step(CAVMAEObjectiveConfig(contrastive_weight=1.0, local_share=share)).terms["contrastive"].detach()
        )
        for share in (0.0, 0.5, 1.0)
    ]
    assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2)


def test_a_learned_temperature_learns_within_bounds() -> None:
    model = small_model()
    objective = CAVMAEObjectiveConfig(contrastive_weight=1.0, learn_temperature=True).build(model)
    step = objective(model, small_batch(), Draws(seed=0, epoch=0))
    step.loss.backward()
    assert float(step.report["temperature"]) == pytest.approx(0.05)
    assert objective.log_temperature is not None
    assert objective.log_temperature.grad is not None
    objective.log_temperature.data.fill_(5.0)
    objective.after_step(model)
    assert objective.log_temperature.exp().item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CAVMAEObjectiveConfig(temperature=0.0), "temperature"),
        (lambda: CAVMAEObjectiveConfig(contrastive_mask_ratio=1.0), "contrastive_mask_ratio"),
        (lambda: CAVMAEObjectiveConfig(contrastive_weight=-1.0), "negative"),
        (lambda: CAVMAEObjectiveConfig(local_share=2.0), "local_share"),
        (lambda: CAVMAEObjectiveConfig(decode_share=0.0), "decode_share"),
        (lambda: CAVMAEObjectiveConfig(mask_ratio_range=(0.9, 0.6)), "must rise"),
        (lambda: CAVMAEObjectiveConfig(mask_ratio_range=(0.6, 1.0)), "must rise"),
        (lambda: CAVMAEObjectiveConfig().build(small_model(decoder_depth=0)), "decoder"),
        (lambda: CAVMAEObjectiveConfig().build(small_model(modalities="audio", decoder_depth=0)), "both modalities"),
        (lambda: CAVMAEObjectiveConfig().build(torch.nn.Linear(1, 1)), "CAV-MAE"),
    ],
)
def test_what_cannot_work_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("normalise", [True, False])
def test_the_error_of_removed_patches_is_its_slow_form(normalise: bool) -> None:
    """Average over the values of removed patches, one patch after another; what was seen gets no gradient."""
    config = CAVMAEObjectiveConfig(mask=MaskConfig(audio=0.5, visual=0.25), normalise_patches=normalise)
    objective = config.build(small_model(), num_instances=2, num_classes=0)
    generator = torch.Generator().manual_seed(3)
    mask = mask_from_noise(torch.rand(4, 6, generator=generator), 0.5)
    prediction = torch.randn(2, 2, 6, 5, generator=generator, requires_grad=True)
    target = torch.randn(2, 2, 6, 5, generator=generator)
    found = objective._reconstruction(prediction, target, mask)
    errors = []
    for row, patch in mask.removed.nonzero().tolist():
        wanted = target.flatten(0, 1)[row, patch]
        if normalise:
            wanted = (wanted - wanted.mean()) / (wanted.var() + 1e-6).sqrt()
        errors.append((prediction.flatten(0, 1)[row, patch] - wanted).square().mean())
    torch.testing.assert_close(found, torch.stack(errors).mean())
    found.backward()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad.flatten(0, 1).abs().sum(-1) > 0, mask.removed)
