"""How fast this machine feeds a model, link by link, each beside a plain form in the same run: `lookhear bench`.

A figure is the median of repeats that alternate between our form and the plain one, so that a machine whose speed
drifts slows both.
"""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lookhear.errors import MediaError
from lookhear.progress import Progress, quiet

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured link: the median of ours and of the plain form, and plain / ours."""

    name: str
    milliseconds: float
    plain_milliseconds: float
    ratio: float
    repeats: int


def measure(media: Path | None = None, *, repeats: int = 20, progress: Progress = quiet) -> list[Figure]:
    """Decoding of each file of `media` (or of two made clips), and the log-mel of ten seconds; one thread each."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            paths = _files(media) if media else make_clips(Path(scratch))
            figures = []
            for i, path in enumerate(paths):
                progress(i, len(paths) + 1, path.name)
                figures.append(_decode(path, repeats))
            figures.append(_log_mel(repeats))
            progress(len(paths) + 1, len(paths) + 1)
            return figures
    finally:
        torch.set_num_threads(threads)


def _files(folder: Path) -> list[Path]:
    from lookhear.media.probe import find_media, probe

    paths = []
    for found in find_media(folder):
        if found.problem:
            continue
        try:
            if probe(found.path).video:
                paths.append(found.path)
        except MediaError:
            continue  # the bench times what can be read; `prepare` says what cannot
    return paths


def make_clips(folder: Path) -> list[Path]:
    """Writes ten seconds of moving texture with sound at 256 x 144 and 1280 x 720, one keyframe every ten seconds."""
    from lookhear.media.encode import write_video

    rng = np.random.default_rng(0)
    sound = rng.standard_normal(160_000).astype(np.float32) * 0.1
    paths = []
    for width, height, rate in [(256, 144, 12.5), (1280, 720, 30.0)]:
        texture = np.kron(
            rng.integers(0, 255, (height // 8, width // 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)
        )
        pictures = (np.roll(texture, 3 * i, axis=1)[:, :width] for i in range(int(rate * 10)))
        paths.append(folder / f"made_{width}x{height}.mp4")
        write_video(paths[-1], frames=pictures, frames_per_second=rate, waveform=sound)
    return paths


def _decode(path: Path, repeats: int) -> Figure:
    """Ten frames, short side 224, and the sound of a file: ours against decoding all frames one after another."""
    from lookhear.media.decode import read_clip
    from lookhear.media.probe import probe

    video = probe(path).video
    assert video is not None
    times = np.linspace(video.start_seconds, video.end_seconds, 10, endpoint=False) + 1e-3

    def ours() -> object:
        return read_clip(path, frame_seconds=tuple(times), short_side=224)

    return _compare(
        f"decode {path.name} {video.width}x{video.height}", ours, lambda: _plain_decode(path, times), repeats
    )


def _plain_decode(path: Path, times: np.ndarray) -> object:
    """What one writes first: decode every frame, scale the wanted ones by swscale; then all the sound."""
    import av

    pictures = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        wanted = iter(times)
        target = next(wanted)
        for frame in container.decode(stream):
            if frame.time is not None and frame.time + 1e-3 >= target:
                scale = 224 / min(frame.width, frame.height)
                width, height = round(frame.width * scale), round(frame.height * scale)
                pictures.append(frame.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray())
                target = next(wanted, np.inf)
    sound = []
    with av.open(str(path)) as container:
        if container.streams.audio:
            resampler = av.AudioResampler("flt", "mono", 16000)
            for audio in container.decode(container.streams.audio[0]):
                sound += [piece.to_ndarray() for piece in resampler.resample(audio)]
            sound += [piece.to_ndarray() for piece in resampler.resample(None)]
    return pictures, np.concatenate(sound, axis=1) if sound else None


def _log_mel(repeats: int) -> Figure:
    import torch

    from lookhear.data.preprocess import log_mel
    from lookhear.device import keep_freed_memory

    keep_freed_memory()  # as training does
    waveform = torch.from_numpy(np.random.default_rng(0).standard_normal(160_000).astype(np.float32) * 0.1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker that reads a store
    try:
        return _compare(
            "log-mel of 10 s, one thread", lambda: log_mel(waveform), lambda: plain_log_mel(waveform), repeats
        )
    finally:
        torch.set_num_threads(threads)


def plain_log_mel(waveform: "Tensor") -> "Tensor":
    """Kaldi's steps on float32 (S,) at 16 kHz, each as an operation of its own over all frames of a clip: (T, 128)."""
    import torch

    frames = waveform.unfold(0, 400, 160)
    frames = frames - frames.mean(1, keepdim=True)
    shifted = torch.nn.functional.pad(frames.unsqueeze(0), (1, 0), mode="replicate").squeeze(0)
    frames = frames - 0.97 * shifted[:, :-1]
    frames = frames * torch.hann_window(400, periodic=False).unsqueeze(0)
    frames = torch.nn.functional.pad(frames.unsqueeze(0), (0, 112)).squeeze(0)
    power = torch.fft.rfft(frames).abs().pow(2.0)
    return torch.mm(power, _filters()).clamp_min(1.1920929e-07).log()


@functools.lru_cache(maxsize=1)
def _filters() -> "Tensor":
    import torch

    from lookhear.data.preprocess import mel_filters

    return torch.from_numpy(mel_filters(16000, 128, 512)).float()


def _compare(name: str, ours: Callable[[], object], plain: Callable[[], object], repeats: int) -> Figure:
    seconds: tuple[list[float], list[float]] = ([], [])
    for work in (ours, plain):
        work()  # the first call pays for imports and caches
    for _ in range(repeats):
        for work, taken in zip((ours, plain), seconds, strict=True):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    fast, slow = (statistics.median(taken) * 1000 for taken in seconds)
    return Figure(name=name, milliseconds=fast, plain_milliseconds=slow, ratio=slow / fast, repeats=repeats)
