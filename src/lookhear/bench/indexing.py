"""How much faster than real time a library is indexed, link by link: `lookhear bench index`.

The links are timed apart on the same files: reading the windows in the decoding processes, embedding them, and the
whole `index`, which does both at once, hashes and writes. The slowest link is the one that takes longest alone.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.data.stretch import StretchJob, decode_stretches
from lookhear.data.windows import WindowPlan, Windows, join_windows
from lookhear.embedder import Embedder
from lookhear.errors import UserError
from lookhear.media.probe import find_media
from lookhear.media.scenes import SceneSettings, make_scenes
from lookhear.media.workers import LimitedPool
from lookhear.models.cavmae_sync import CAVMAESync, CAVMAESyncConfig
from lookhear.progress import Progress, quiet
from lookhear.search.crawl import index

# ViT-S: 12 blocks of width 384 for each modality, the last of them shared; windows of 1.12 s with one picture.
MODEL = CAVMAESyncConfig(audio_frames=112, width=384, heads=6, num_registers=0, decoder_depth=0)
MADE = SceneSettings(
    width=640,
    height=360,
    frames_per_second=30.0,
    min_seconds=60.0,
    max_seconds=60.0,
    max_events=40,
    preset="veryfast",  # with references forwards and backwards, as cameras and archives have them
)


@dataclass(frozen=True, kw_only=True)
class IndexingFigures:
    """Seconds of media in a second, each link alone and the whole."""

    whole: float
    reading: float  # decoding, resizing and cutting windows
    embedding: float  # what the model takes
    slowest_link: str
    files: int
    media_seconds: float
    moments: int
    hop_seconds: float
    window_seconds: float
    parameters_per_tower: int  # with the shared block
    picture_side: int
    workers: int
    threads: int
    device: str
    dtype: str


def measure(
    media: Path | None = None,
    *,
    config: CAVMAESyncConfig = MODEL,
    hop_seconds: float = 1.0,
    workers: int = 2,
    count: int = 16,
    settings: SceneSettings = MADE,
    progress: Progress = quiet,
) -> IndexingFigures:
    """Indexes the folder `media`, or `count` made files of 360p at 30 frames a second, with random weights.

    Raises UserError where the folder has nothing that can be read.
    """
    with tempfile.TemporaryDirectory(prefix="lookhear-") as name:
        scratch = Path(name)
        if media is None:
            media = scratch / "media"
            progress(0, 4, "making media")
            make_scenes(media, count=count, settings=settings, workers=workers)
        embedder = _embedder(config)
        progress(1, 4, "reading")
        started = time.perf_counter()
        windows, num_files = _read(media, embedder.plan(hop_seconds=hop_seconds), workers)
        reading = time.perf_counter() - started
        progress(2, 4, "embedding")
        started = time.perf_counter()
        embedder.embed_windows(windows)
        embedding = time.perf_counter() - started
        progress(3, 4, "indexing")
        started = time.perf_counter()
        found = index([media], model=embedder, index_path=scratch / "index", hop_seconds=hop_seconds, workers=workers)
        whole = time.perf_counter() - started
        progress(4, 4)
    return IndexingFigures(
        whole=found.seconds / whole,
        reading=found.seconds / reading,
        embedding=found.seconds / embedding,
        slowest_link="reading" if reading > embedding else "embedding",
        files=num_files,
        media_seconds=found.seconds,
        moments=len(windows),
        hop_seconds=hop_seconds,
        window_seconds=embedder.window_seconds,
        parameters_per_tower=_parameters_per_tower(embedder.model),
        picture_side=config.picture_height,
        workers=workers,
        threads=torch.get_num_threads(),
        device=embedder.device.type,
        dtype=embedder.dtype_name,
    )


def _embedder(config: CAVMAESyncConfig) -> Embedder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CAVMAESync(config)
    preprocess = PreprocessConfig(
        audio_frames=config.audio_frames,
        num_mel_bins=config.num_mel_bins,
        picture_height=config.picture_height,
        picture_width=config.picture_width,
        frames_per_window=config.picture_channels // 3,
    )
    return Embedder(model, Preprocess(preprocess), config=config, fingerprint="random weights")


def _read(media: Path, plan: WindowPlan, workers: int) -> tuple[Windows, int]:
    """All windows of a folder, read as `index` reads them, and the number of files that have some."""
    jobs = [
        StretchJob(rank=rank, path=str(found.path), plan=plan, stretch=0)
        for rank, found in enumerate(each for each in find_media(media) if not each.problem)
    ]
    parts: list[Windows] = []
    ranks = set()
    with LimitedPool(workers, time_limit_seconds=300.0, memory_limit_bytes=2 << 30) as pool:
        while jobs:
            further = []
            for job, decoded in decode_stretches(pool, iter(jobs)):
                parts += decoded.windows
                if decoded.windows:
                    ranks.add(job.rank)
                if job.stretch == 0:
                    further += [
                        StretchJob(rank=job.rank, path=job.path, plan=plan, stretch=number, file_id=decoded.file_id)
                        for number in range(1, decoded.num_stretches)
                    ]
            jobs = further
    if not parts:
        raise UserError(f"{media} has no media that can be read; give a folder of video files")
    return join_windows(parts), len(ranks)


def _parameters_per_tower(model: torch.nn.Module) -> int:
    """Of what one modality goes through: the smaller of the two towers, and the blocks that both share."""
    assert isinstance(model, CAVMAESync)
    shared = sum(value.numel() for value in model.joint_blocks.parameters())
    towers = (model.audio_tower, model.visual_tower)
    return shared + min(sum(value.numel() for value in tower.parameters()) for tower in towers)
