"""report/figures.py: drawings that stand in a page of many, in its colours."""

import re
import warnings

import numpy as np
import pytest

from lookhear.report.figures import (
    MOST_POINTS,
    Bar,
    Curve,
    Located,
    Stages,
    Thumbnail,
    bars,
    curve_panel,
    heat_maps,
    reconstruction,
    running_mean,
    similarity_matrix,
    thin_out,
    thumbnails,
)
from lookhear.report.page import COLOURS, Figure


def curve(values: list[float], series: int = 0) -> Curve:
    return Curve(x=np.arange(1.0, len(values) + 1), y=np.array(values), series=series)


def drawn(figure: Figure) -> str:
    """The SVG of a figure, after the checks that every one must pass."""
    text = figure.drawing.decode("utf-8")
    assert text.startswith("<svg")
    assert "http" not in text
    assert not any(colour.light in text for colour in COLOURS), "a colour that will not follow the page"
    names = re.findall(r' id="([^"]+)"', text)
    assert len(names) == len(set(names))
    used = {one or other for one, other in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)}
    assert used == set(names)
    return text


def test_running_mean_is_the_mean_around_each_value() -> None:
    values = np.random.default_rng(0).standard_normal(137)
    half = len(values) // 40
    slow = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    np.testing.assert_allclose(running_mean(values), slow, atol=1e-12)
    assert list(running_mean(np.array([2.0]))) == [2.0]


def test_thinning_keeps_ends_of_every_stretch() -> None:
    x, y = np.arange(10_000.0), np.random.default_rng(0).standard_normal(10_000)
    y[4321], y[77] = 50.0, -50.0
    few_x, few_y = thin_out(x, y)
    assert len(few_x) <= MOST_POINTS
    assert {4321, 77} <= set(few_x)
    assert (np.diff(few_x) > 0).all()
    np.testing.assert_array_equal(few_y, y[few_x.astype(int)])
    assert thin_out(x[:5], y[:5])[0] is not x
    np.testing.assert_array_equal(thin_out(x[:5], y[:5])[0], x[:5])


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize(
    "values", [[1.0], [2.0, 2.0], [0.0] * 50, [float("nan"), 1.0], [float("nan")], [], list(np.linspace(5, 1, 3000))]
)
def test_curves_of_any_length(values: list[float], smooth: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = curve_panel([curve(values)], title="loss", smooth=smooth, floor=0.0, reference=0.1)
    text = drawn(figure)
    assert len(text) < 60_000, "a long run must not make a large page"
    finite = [value for value in values if np.isfinite(value)]
    assert ("no values" in figure.alt) == (not finite)


def test_each_series_has_its_own_line() -> None:
    text = drawn(curve_panel([curve([1, 2, 3], series) for series in range(12)], title="x"))
    for series in range(8):
        assert f"var(--series-{series})" in text
    assert "stroke-dasharray" in text, "the ninth run must not look like the first"
    assert curve_panel([], title="x").drawing.startswith(b"<svg")


def test_two_drawings_share_no_name_and_the_same_one_has_the_same_bytes() -> None:
    one, other = (curve_panel([curve(values)], title="x") for values in ([1.0, 2.0], [2.0, 5.0]))
    names = [set(re.findall(r' id="([^"]+)"', drawn(figure))) for figure in (one, other)]
    assert not names[0] & names[1]
    assert curve_panel([curve([1.0, 2.0])], title="x").drawing == one.drawing


def test_an_outlier_does_not_flatten_the_curve() -> None:
    values = [1 + 0.1 * np.sin(i) for i in range(500)]
    values[3] = 1e6
    calm = curve_panel([curve(values)], title="x", smooth=True)
    assert ">1.1</text>" in drawn(calm).replace("1.10<", "1.1<"), "the axis is that of the other values"


def test_bars_and_matrix() -> None:
    text = drawn(
        bars([Bar(name="o$ne", value=0.4, ci95=(0.3, 0.5), chance=0.1, baseline=0.2), Bar(name="b", value=0.1)])
    )
    assert ">b</text>" in text
    text = drawn(similarity_matrix(np.eye(6), groups=list("ab$abc")))
    assert text.count("data:image/png;base64,") >= 1
    drawn(similarity_matrix(np.eye(1)))


@pytest.mark.parametrize("frames", [(8, 12), (1, 1)])
def test_reconstruction(frames: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (3, 3, *frames), dtype=np.uint8)
    sounds = rng.standard_normal((3, 16, 4)).astype(np.float32)
    stages = Stages(
        pictures=(pictures[0], pictures[1], pictures[2]),
        spectrograms=(sounds[0], sounds[1], sounds[2]),
        removed=rng.random((16, 4)) > 0.5,
        seconds=0.04,
        edges_hz=np.geomspace(20, 8000, 17),
    )
    figure = reconstruction(stages, title="$a", caption="c")
    text = drawn(figure)
    assert text.count("data:image/png;base64,") == 6
    assert [text.count(f">{name}</text>") for name in ("original", "masked", "filled in")] == [2, 2, 2]
    silent = np.zeros((16, 4), np.float32)
    drawn(
        reconstruction(
            Stages(
                pictures=stages.pictures,
                spectrograms=(silent, silent, silent),
                removed=np.zeros((16, 4), bool),
                seconds=0.04,
                edges_hz=stages.edges_hz,
            ),
            title="",
        )
    )


def test_file_names_of_any_kind_are_titles() -> None:
    """A dollar sign begins a formula, a script without glyphs warns, a long name covers its neighbour."""
    picture = np.zeros((3, 12, 16), np.uint8)
    heat = np.random.default_rng(0).random((12, 16)).astype(np.float32)
    names = ["$\\frac{$.mp4", "狗叫.mp4", "x" * 200 + ".mp4", ""]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = thumbnails([Thumbnail(picture=picture, title=name, mark="asked") for name in names], alt="")
        glowing = heat_maps(
            [Located(picture=picture, heat=heat, box=(0.1, 0.1, 0.5, 0.5), title=name) for name in names]
        )
        heat_maps([Located(picture=picture, heat=np.zeros((3, 4), np.float32), title=name) for name in names])
    assert shown.drawing.startswith(b"\x89PNG")
    assert glowing.drawing.startswith(b"\x89PNG")
