"""A headless Chromium of the system, and a server for it to visit."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lookhear.media.decode import read_clip
from lookhear.media.encode import write_sound
from lookhear.search.crawl import index
from lookhear.serve.security import access_of
from lookhear.serve.server import serving
from synthetic import make_video
from tiny_embedder import make_clip, save_tiny
from web_library import Made, make_library

FLAGS = (
    "--no-sandbox",  # the tests may run as root, in a container; what they visit is our own
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
TIMEOUT_MILLISECONDS = 60_000


def chromium_path() -> str | None:
    """Where Chromium or Chrome lies: LOOKHEAR_CHROMIUM, or what is found under its usual names."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("LOOKHEAR_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    path = chromium_path()
    if path is None:
        why = "no Chromium here: install it (Debian: apt-get install chromium), or name it in LOOKHEAR_CHROMIUM"
        if os.environ.get("LOOKHEAR_NEEDS_BROWSER") == "1":
            pytest.fail(why)
        pytest.skip(why)
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The library of the API tests, and an MKV whose sound no browser plays."""
    made = make_library(tmp_path_factory.mktemp("browser").resolve())
    make_video(made.media / "camera.mkv", seconds=6, size=(96, 208), sound_codec="ac3", sound_rate=48000)
    index([made.media], index_path=made.index, workers=0)
    return made


@pytest.fixture(scope="session")
def address(made: Made) -> Iterator[str]:
    with serving(made.index, access_of("127.0.0.1", token=None), host="127.0.0.1", port=0) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    """A new window. What goes wrong inside it fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.set_default_timeout(TIMEOUT_MILLISECONDS)
    page = context.new_page()
    errors: list[str] = []
    foreign: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    def hear(message: Any) -> None:
        if "Content Security Policy" in message.text:
            errors.append(message.text)

    def see(request: Any) -> None:
        if not request.url.startswith((address, "blob:")):
            foreign.append(request.url)

    page.on("console", hear)
    page.on("request", see)
    yield page
    context.close()
    assert errors == []
    assert foreign == []


@pytest.fixture(scope="session")
def empty_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty").resolve()
    (folder / "media").mkdir()
    model = save_tiny(folder / "model.safetensors")
    index([folder / "media"], model=model, index_path=folder / "index", workers=0)
    return folder


@pytest.fixture
def new_clip(tmp_path: Path) -> Path:
    """A clip that the library does not have."""
    return make_clip(tmp_path / "not in the library.mp4", 77)


@pytest.fixture
def cut(made: Made, tmp_path: Path) -> Path:
    """1.2 s of the sound of clip 2, from 2.0 s on."""
    clip = read_clip(made.clip(2), start_seconds=2.0, end_seconds=3.2)
    assert clip.waveform is not None
    write_sound(tmp_path / "cut.wav", clip.waveform, 16000)
    return tmp_path / "cut.wav"
