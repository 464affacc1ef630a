"""bench/step.py and plain.py: a ratio against something that learns otherwise would mean nothing."""

import json
from typing import Any

import pytest
import torch

from lookhear import cli
from lookhear.bench import step as bench
from lookhear.bench.plain import PlainCAVMAE
from lookhear.errors import UserError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.flops import contrastive_flops, pass_flops

SMALL: dict[str, Any] = {
    "audio_frames": 64,
    "num_mel_bins": 32,
    "picture_height": 32,
    "picture_width": 48,
    "width": 24,
    "heads": 3,
    "audio_depth": 2,
    "visual_depth": 1,
    "joint_depth": 2,
    "decoder_depth": 2,
    "decoder_width": 16,
    "decoder_heads": 2,
}
CONFIG = CAVMAEConfig(**SMALL)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_the_plain_form_learns_the_same(dtype: bench.BenchDtype, tolerance: float) -> None:
    work = bench.Work(config=CONFIG, dtype=dtype, device="cpu", batch_size=4)
    forms = [bench.make_step(form, work) for form in bench.FORMS]
    plain, fast = ([float(step()) for _ in range(3)] for step in forms)
    assert plain == pytest.approx(fast, abs=tolerance)
    assert len(set(fast)) == 3, "the weights move and the masks change"


def test_after_three_steps_the_weights_are_the_same() -> None:
    """Every gradient of the fast form is that of the plain one: Adam divides by its size, so that none is hidden."""
    work = bench.Work(config=CONFIG, dtype="float32", device="cpu", batch_size=4)
    plain, fast = (bench.make_step(form, work) for form in bench.FORMS)
    for _ in range(3):
        plain(), fast()
    assert isinstance(plain, bench._PlainStep)
    assert isinstance(fast, bench._FastStep)
    theirs = dict(plain.model.named_parameters())
    for name, value in fast.model.named_parameters():
        # where a gradient is zero but for rounding (the key's bias), Adam makes its sign a whole step
        moved = 3 * bench.LEARNING_RATE
        assert (value - theirs[name]).abs().max() <= 2 * moved, name
        assert (value - theirs[name]).abs().median() <= 0.02 * moved, name


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_both_forms_embed_the_same(dtype: bench.BenchDtype, tolerance: float) -> None:
    work = bench.Work(config=CONFIG, dtype=dtype, device="cpu", batch_size=3)
    plain, fast = (torch.stack(bench.make_step(form, work).embed()) for form in bench.FORMS)
    assert plain.shape == (2, 3, CONFIG.width)
    assert (plain - fast).abs().max() < tolerance
    assert not plain.requires_grad
    torch.testing.assert_close(plain.norm(dim=-1), torch.ones(2, 3))


def test_a_model_that_the_plain_form_cannot_be_is_refused() -> None:
    with pytest.raises(RuntimeError):
        PlainCAVMAE.copy_of(CAVMAE(CAVMAEConfig(**SMALL, stem_channels=(4,))))


def test_figures_follow_from_the_times() -> None:
    found = bench.measure(
        CONFIG, batch_size=2, repeats=2, peak_size=64, device="cpu", dtypes=("float32",), forward=True
    )
    assert list(found) == ["float32"]
    for figures in found.values():
        assert figures.ratio == pytest.approx(figures.fast_samples_per_second / figures.plain_samples_per_second)
        flops = pass_flops(CONFIG, audio_ratio=0.75, visual_ratio=0.75, reconstruct=True).training
        flops += 3 * contrastive_flops(2, CONFIG.width) / 2
        rate = figures.fast_samples_per_second * flops
        assert figures.mfu == pytest.approx(rate / figures.peak_tflops_per_second / 1e12)
        assert figures.repeats == 2
        assert len(figures.fast_losses) == bench.COMPARED
        forward = figures.forward
        assert forward is not None
        assert forward.ratio == pytest.approx(forward.fast_clips_per_second / forward.plain_clips_per_second)
        rate = forward.fast_clips_per_second * pass_flops(CONFIG).forward
        assert forward.tflops_per_second == pytest.approx(rate / 1e12)
        assert forward.mfu == pytest.approx(rate / figures.peak_tflops_per_second / 1e12)
        assert forward.largest_difference < 1e-5
        assert forward.repeats == 2


def test_time_ends_the_repeats() -> None:
    found = bench.measure(
        CONFIG, batch_size=2, repeats=1000, seconds=0.0, dtypes=("float32",), peak_size=16, device="cpu"
    )
    assert found["float32"].repeats == 2
    assert found["float32"].forward is None


@pytest.mark.ci
def test_verb(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    words = ["bench", "step", "--repeats", "2", "--peak-size", "32", "--batch-size", "2", "--device", "cpu", "--json"]
    assert cli.main([*words, *sizes]) == 0
    out = capsys.readouterr()
    record = json.loads(out.out)
    assert set(record) == {"float32", "bfloat16"}
    wanted = {"plain_samples_per_second", "fast_samples_per_second", "ratio", "mfu"}
    assert all(wanted <= set(figures) for figures in record.values())
    assert "losses of 3 steps differ" in out.err


def test_a_process_that_ends_is_a_sentence() -> None:
    work = bench.Work(config=CONFIG, dtype="float32", device="cpu", batch_size=2)
    with bench._Process("plain", work) as form:
        form.process.kill()
        with pytest.raises(UserError, match=r"plain form ended .* --batch-size"):
            form.ask(bench._memory)


def test_an_error_in_a_process_is_a_sentence_and_the_process_lives_on() -> None:
    work = bench.Work(config=CONFIG, dtype="float32", device="cpu", batch_size=2)
    with bench._Process("fast", work) as form:
        with pytest.raises(UserError, match=r"fast form failed: RuntimeError: .*; try a smaller --batch-size"):
            form.ask(bench._peak, -1)
        assert form.ask(bench._peak, 4) > 0
