"""report.py: one HTML file that needs nothing else."""

import re
import warnings
from pathlib import Path

import numpy as np

from lookhear.report import (
    Bar,
    Located,
    Section,
    Table,
    Thumbnail,
    bars,
    heat_maps,
    loss_curves,
    similarity_matrix,
    thumbnails,
    write_page,
)


def test_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    picture = np.zeros((3, 12, 16), np.uint8)
    heat = np.random.default_rng(0).random((12, 16)).astype(np.float32)
    records = [{"step": i, "loss": 3.0 / (i + 1), "terms": {"contrastive": 1.0 / (i + 1)}} for i in range(30)]
    figures = (
        loss_curves(records),
        similarity_matrix(np.eye(6), groups=list("abcabc")),
        bars([Bar(name="one", value=0.4, ci95=(0.3, 0.5), chance=0.1, baseline=0.2), Bar(name="two", value=0.1)]),
        thumbnails(
            [Thumbnail(picture=picture, title="one", mark="asked"), Thumbnail(picture=picture, title="two")],
            alt="two pictures",
        ),
        heat_maps([Located(picture=picture, heat=heat, box=(0.1, 0.1, 0.5, 0.5), title="x")]),
    )
    table = Table(head=("file", "score"), rows=(("<b>odd & name</b>.mp4", "0.5"),))
    path = tmp_path / "page.html"
    write_page(path, title="T<itle", intro="in & out", sections=[Section(title="S", tables=(table,), figures=figures)])
    page = path.read_text(encoding="utf-8")
    assert "&lt;b&gt;odd &amp; name&lt;/b&gt;.mp4" in page
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r"(src|href)=['\"](?!data:)", page), "the page reaches for another file"
    assert "http" not in page


def test_loss_curves_of_a_single_step() -> None:
    assert loss_curves([{"step": 1, "loss": 2.0, "terms": {}}]).png.startswith(b"\x89PNG")


def test_file_names_of_any_kind_are_titles() -> None:
    """A dollar sign begins a formula, a script without glyphs warns, a long name covers its neighbour."""
    picture = np.zeros((3, 12, 16), np.uint8)
    names = ["$\\frac{$.mp4", "狗叫.mp4", "x" * 200 + ".mp4", ""]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = thumbnails([Thumbnail(picture=picture, title=name) for name in names], alt="")
        heat_maps([Located(picture=picture, heat=np.zeros((3, 4), np.float32), title=name) for name in names])
    assert shown.png.startswith(b"\x89PNG")
