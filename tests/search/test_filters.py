"""If these fail, a search looks at files that it should not, or leaves out some that it should see."""

import datetime
from pathlib import Path

import numpy as np
import pytest

from lookhear.errors import IndexStateError
from lookhear.search.filters import Where, read_date
from lookhear.search.library import LibraryFile
from made_library import make_library, query_of, search

DAY = datetime.datetime(2026, 3, 1).timestamp()


def file(path: str, *copies: str, **facts: object) -> LibraryFile:
    settings = {"seconds": 10.0, "modified": (DAY,) * (1 + len(copies))} | facts
    return LibraryFile(file_id="0" * 32, path=Path(path), copies=tuple(map(Path, copies)), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        (Where(), True),
        (Where(folder=Path("/videos")), True),
        (Where(folder=Path("/videos/news/")), True),
        (Where(folder=Path("/video")), False),
        (Where(folder=Path("/videos/sport")), False),
        (Where(name="*.MOV"), True),
        (Where(name="tape?.mov"), True),
        (Where(name="tape"), False),
        (Where(name="[t]ape?.mov"), False),  # brackets are brackets
        (Where(name="*/news/*"), True),
        (Where(name="*/sport/*"), False),
        (Where(after=datetime.date(2026, 3, 1)), True),
        (Where(before=datetime.date(2026, 3, 1)), False),
        (Where(before=datetime.date(2026, 3, 2)), True),
        (Where(after=datetime.datetime(2026, 3, 1, 0, 1)), False),
        (Where(longer_seconds=10.0), True),
        (Where(shorter_seconds=10.0), False),
        (Where(longer_seconds=5.0, shorter_seconds=11.0), True),
        (Where(status=("ok", "partial")), True),
        (Where(status=("sound_only",)), False),
        (Where(name="*.mov", longer_seconds=11.0), False),
    ],
)
def test_what_passes(where: Where, passes: bool) -> None:
    assert (where.narrow(file("/videos/news/tape1.mov")) is not None) == passes


def test_a_file_in_several_places_is_named_by_the_one_that_passes() -> None:
    found = Where(folder=Path("/b")).narrow(file("/a/1.mp4", "/b/2.mp4", "/b/3.mp4"))
    assert found is not None
    assert (found.path, found.copies) == (Path("/b/2.mp4"), (Path("/b/3.mp4"),))


def test_dates_and_kinds_that_are_none() -> None:
    assert read_date("2026-03-01") == datetime.datetime(2026, 3, 1)
    with pytest.raises(IndexStateError, match="2026-01-31"):
        read_date("yesterday")
    with pytest.raises(IndexStateError, match="sound_only"):
        Where(status=("loud",))


def test_a_filtered_search_is_the_whole_one_without_the_others() -> None:
    library = make_library([20.0] * 6)
    query = query_of(library.audio[30:31])
    whole = search(library, query, top=1000)
    for name in ("?.mp4", "0.mp4", "none"):
        kept = search(library, query, top=1000, where=Where(name=name))
        assert kept == [hit for hit in whole if Path(hit.path).match(name)]
    assert np.isfinite([hit.score for hit in whole]).all()


@pytest.mark.parametrize("text", ["0001-01-01", "yesterday"])
def test_a_date_that_no_clock_has(text: str) -> None:
    with pytest.raises(IndexStateError, match="is no date"):
        read_date(text)


def test_a_folder_is_known_by_its_link_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    where = Where(folder=tmp_path / "link")
    assert where.narrow(file(str(tmp_path / "link" / "a.mov"))) is not None
    assert where.narrow(file(str((tmp_path / "real").resolve() / "a.mov"))) is not None
    assert where.narrow(file(str(tmp_path / "other" / "a.mov"))) is None
