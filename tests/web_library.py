"""A small library with an index of a tiny model, and its server in this process: for the tests of the web page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from lookhear.search.crawl import index
from lookhear.search.index import Index
from lookhear.search.labelled import FileLabels, LabelledStretch, to_text
from lookhear.serve.app import create_app
from lookhear.serve.archive import Archive
from lookhear.serve.security import Access
from lookhear.serve.settings import ServeSettings
from lookhear.serve.work import Workshop
from tiny_embedder import make_clip, save_tiny

NUM_CLIPS = 6
ORIGIN = "http://localhost:8710"


@dataclass(frozen=True, kw_only=True)
class Made:
    """Folders and files."""

    folder: Path
    media: Path
    index: Path

    def clip(self, number: int) -> Path:
        """One of the videos; each has 4 s that are like nothing else."""
        return self.media / ("day1" if number < 3 else "day2") / f"clip{number}.mp4"


def make_library(folder: Path) -> Made:
    """Six videos of 4 s in two folders, a sound, a silent video, an AVI, and a file that is no media."""
    made = Made(folder=folder, media=folder / "media", index=folder / "index")
    for number in range(NUM_CLIPS):
        make_clip(made.clip(number), number, seconds=4.0)
    make_clip(made.media / "sound only.m4a", 20, seconds=4.0, picture=False)
    make_clip(made.media / "silent.mp4", 21, seconds=4.0, sound=False)
    (made.media / "broken.mp4").write_bytes(b"this is no video at all" * 100)
    model = save_tiny(folder / "model.safetensors")
    index([made.media], model=model, index_path=made.index, workers=0)
    return made


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server in this process, and a client that talks to it as a browser on this machine does."""

    client: TestClient
    archive: Archive
    workshop: Workshop

    def file_id(self, path: Path) -> str:
        """The id of a file of the library."""
        found = self.archive.catalogue().id_of(str(path.resolve()))
        assert found is not None
        return found

    def upload(self, path: Path, name: str | None = None) -> dict[str, Any]:
        """Uploads a file as an example."""
        answer = self.client.post("/api/uploads", params={"name": name or path.name}, content=path.read_bytes())
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found


@contextmanager
def running(index_path: Path, *, access: Access | None = None, workers: int = 0, **settings: Any) -> Iterator[Running]:
    """A server of an index. Without `workers` it decodes in this process, which starts faster."""
    limits = ServeSettings(workers=workers, **settings)
    archive = Archive(index_path, limits)
    with Workshop(limits) as workshop:
        client = TestClient(create_app(archive, workshop, access or Access()), base_url=ORIGIN)
        yield Running(client=client, archive=archive, workshop=workshop)


def stretch(name: str, start: float, end: float, score: float) -> LabelledStretch:
    """A label of some seconds."""
    middle = (start + end) / 2
    return LabelledStretch(label=name, start_seconds=start, end_seconds=end, peak_seconds=middle, score=score)


def labelled_index(index_path: Path, place: Path, labels: dict[str, tuple[LabelledStretch, ...]]) -> Path:
    """A copy of an index at `place`, in which files have labels, by the end of their paths."""
    shutil.copytree(index_path, place)
    target = Index(place)
    with target.writing():
        for row in target.files():
            for name, stretches in labels.items():
                if row.path.endswith(name):
                    known = FileLabels(made_by="nobody", matched="sound", stretches=stretches)
                    target.write([replace(row, labels=to_text(known))])
    return place
