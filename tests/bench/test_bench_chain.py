"""bench/chain.py: one table of every link. If these fail, `lookhear bench` names the wrong one, or hides a failure."""

import json
from pathlib import Path
from typing import Any

import pytest

from lookhear import cli
from lookhear.bench import chain as bench
from lookhear.bench.chain import Effort, Link, name_slowest
from lookhear.bench.step import StepFigures
from lookhear.errors import UserError
from lookhear.models.cavmae import CAVMAEConfig
from synthetic import make_video

SMALL: dict[str, Any] = {
    "audio_frames": 64,
    "num_mel_bins": 32,
    "picture_height": 32,
    "picture_width": 48,
    "width": 24,
    "heads": 3,
    "audio_depth": 1,
    "visual_depth": 1,
    "decoder_depth": 1,
    "decoder_width": 16,
    "decoder_heads": 2,
}
SIZES = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WHOLE", "QUICK"):
        monkeypatch.setattr(bench, name, Effort(repeats=2, seconds=0.1, peak_size=16))


@pytest.mark.ci
def test_every_link_is_a_row_beside_its_plain_form(
    brief: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_video(tmp_path / "clip.mp4")
    words = ["bench", "--quick", "--media", str(tmp_path), "--device", "cpu", "--dtype", "float32", *SIZES]
    assert cli.main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [link["link"] for link in record["links"]] == ["decode", "log-mel", "loader", "forward", "step"]
    for link in record["links"]:
        assert link["ratio"] == pytest.approx(link["samples_per_second"] / link["plain_samples_per_second"])
        assert link["repeats"] == 2
        trained = link["link"] in ("forward", "step")
        assert (link["mfu"] is not None) == trained
        if trained:
            peak = record["peak_tflops_per_second"]["float32"]
            assert link["mfu"] == pytest.approx(link["tflops_per_second"] / peak)
            assert link["what"] == "float32, batch 2"
    assert record["quick"] is True
    assert record["model"]["width"] == 24
    assert record["machine"]["device"] == "cpu"
    assert record["slowest"] in ("step", "loader")
    assert "A training run waits for the" in record["sentence"]


class Trained:
    """Stands for `step.measure`: remembers how it was asked, and fails for what is compiled."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, config: CAVMAEConfig, **options: Any) -> dict[str, StepFigures]:
        (dtype,) = options["dtypes"]
        self.asked.append((dtype, options["batch_size"], options["compiled"]))
        if options["compiled"]:
            raise UserError("no compiler")
        forward = bench.step.ForwardFigures(
            plain_clips_per_second=1.0,
            fast_clips_per_second=3.0,
            ratio=3.0,
            mfu=0.4,
            plain_mfu=0.1,
            tflops_per_second=2.0,
            largest_difference=0.0,
            repeats=7,
        )
        return {
            dtype: StepFigures(
                plain_samples_per_second=1.0,
                fast_samples_per_second=float(options["batch_size"]),
                ratio=2.0,
                mfu=0.5,
                plain_mfu=0.2,
                tflops_per_second=1.0,
                peak_tflops_per_second=float(len(self.asked)),
                gflops_per_sample=1.0,
                batch_size=options["batch_size"],
                repeats=5,
                plain_losses=(),
                fast_losses=(),
                largest_loss_difference=0.0,
                peak_memory_bytes=2**31,
                forward=forward,
                compiled=False,
                device="cpu",
                threads=1,
            )
        }


@pytest.fixture
def trained(brief: None, monkeypatch: pytest.MonkeyPatch) -> Trained:
    stand_in = Trained()
    monkeypatch.setattr(bench.step, "measure", stand_in)
    monkeypatch.setattr(bench, "_feed", lambda folder, effort: iter(()))
    monkeypatch.setattr(bench, "_loader", lambda store, effort: Link(link="loader", what="x", samples_per_second=50.0))
    return stand_in


def test_all_ways_are_tried_and_one_that_fails_is_a_row(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--device", "cpu"]) == 0
    precisions = ("float32", "bfloat16")
    assert trained.asked == [(dtype, size, both) for dtype in precisions for size in (2, 8) for both in (False, True)]
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:5] == ["link", "what", "samples/s", "plain", "ratio"]
    assert ["step", "bfloat16, batch 8, compiled", "no compiler"] in lines
    assert ["step", "bfloat16, batch 8", "8", "1", "2", "1", "0.5", "2", "5"] in lines
    assert ["forward", "float32, batch 2", "3", "1", "3", "2", "0.4", "", "7"] in lines
    names = [line[0] for line in lines]
    assert names == ["link", "loader", *["forward"] * 8, *["step"] * 8, "peak", "peak", "slowest"]
    assert lines[-2] == ["peak", "bfloat16", "", "", "", "7"], "the best of all products in that precision"
    assert lines[-1][1].startswith("A training run waits for the step: the step takes 8 samples/s")


def test_what_is_named_is_measured_and_quick_is_little(trained: Trained) -> None:
    bench.measure(device="cpu", quick=True)
    assert [way[1:] for way in trained.asked] == [(2, False)]
    trained.asked.clear()
    bench.measure(device="cpu", quick=True, batch_sizes=(3, 1), dtypes=("bfloat16",), compiled=(True,))
    assert trained.asked == [("bfloat16", 3, True), ("bfloat16", 1, True)]


def _links(step: float | None, loader: float | None) -> list[Link]:
    return [
        Link(link="step", what="float32, batch 8", samples_per_second=1.0),
        Link(link="step", what="bfloat16, batch 8", samples_per_second=step),
        Link(link="loader", what="", samples_per_second=loader),
    ]


def test_the_slowest_link() -> None:
    name, sentence = name_slowest(_links(4.0, 198.0), device="cpu", cores=2)
    assert name == "step"
    assert "4 samples/s at its best (bfloat16, batch 8), and 2 cores can prepare 396 clips/s" in sentence
    assert "takes 1.0% of the time" in sentence
    name, sentence = name_slowest(_links(4000.0, 198.0), device="cuda", cores=16)
    assert name == "loader"
    assert "4,000 samples/s" in sentence
    assert "16 cores can prepare 3,168 clips/s" in sentence
    name, sentence = name_slowest(_links(300.0, 500.0), device="cuda", cores=1)
    assert (name, "%" in sentence) == ("step", False)
    assert "1 core can" in sentence
    assert name_slowest(_links(2.0, None), device="cpu", cores=1)[0] is None
    assert name_slowest([], device="cpu", cores=1)[0] is None


def test_options_of_the_table_are_not_lost_before_a_link(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--quick", "--batch-sizes", "4", "step"]) == 1
    assert "--quick, --batch-sizes before the name of a link" in capsys.readouterr().err
    assert cli.main(["bench", "--media", "x", "retrieval"]) == 1
    parsed = cli.parse(["bench", "--media", "x", "--json", "feed"])
    assert (parsed._one_link().media, parsed._one_link().json) == (Path("x"), True)


def test_what_cannot_be_read_is_refused(brief: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        bench.measure(store=tmp_path / "none", folder=tmp_path, device="cpu")


@pytest.mark.parametrize("words", [["bench"], ["bench", "--json"], ["bench", "--media", "x"], ["bench", "all"]])
def test_bench_alone_is_the_whole_table(words: list[str]) -> None:
    assert cli.parse(words).what is None
