"""Checkpoint + media -> embeddings with times: the front door for everything that comes after training.

M windows, S samples, C picture channels (3 x the pictures of a window), H rows, W columns, E width of an embedding.
A sound window and a picture window are the same window of the file's clock.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lookhear.config import from_dict
from lookhear.data.batch import Batch, windows_as_clips
from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.data.sampling import window_starts
from lookhear.data.vectors import Part
from lookhear.data.windows import SPAN_SECONDS, WindowPlan, Windows, cut_windows
from lookhear.device import Dtype, pick_device, pick_dtype
from lookhear.errors import CheckpointError, ConfigError, MediaError
from lookhear.hub import find_weights
from lookhear.media.clip import Clip, ClipRequest
from lookhear.media.decode import open_media, read_picture
from lookhear.media.info import MediaInfo
from lookhear.models.checkpoint import MODELS, model_name, with_audio_frames
from lookhear.models.published import PublishedChoices, read_model
from lookhear.models.tokens import Encoded, Output

# Windows that are embedded at once. On a CPU what runs through a layer should stay in its caches: of 8 to 128 pictures
# of 224 x 224 at once, 8 and 16 cost ViT-S the least time a picture. Not measured on a GPU.
BATCH_SIZE, CPU_BATCH_SIZE = 128, 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """Windows and their vectors, in ascending order of start."""

    start_seconds: np.ndarray  # float64 (M,), on the file's clock
    end_seconds: np.ndarray  # float64 (M,); a window that reaches beyond the file ends with it
    # float32 (M, E), unit length; a row is NaN where the window has no such modality, None where no window has
    audio: np.ndarray | None
    visual: np.ndarray | None

    def __len__(self) -> int:
        return len(self.start_seconds)

    @property
    def has_audio(self) -> np.ndarray:
        """bool (M,): which windows have sound."""
        return _has(self.audio, len(self))

    @property
    def has_visual(self) -> np.ndarray:
        """bool (M,): which windows have a picture."""
        return _has(self.visual, len(self))


class Embedder:
    """A model that is ready to embed media. `load` makes one from a checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        *,
        config: Any,
        fingerprint: str,
        labels: tuple[str, ...] = (),
        extra: Mapping[str, Any] | None = None,
        path: Path | None = None,
        device: str = "auto",
        dtype: Dtype = "auto",
        batch_size: int | None = None,
    ) -> None:
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.model = model.to(self.device).eval()
        # under a classifier's head is the model that embeds
        self.encoder = getattr(self.model, "encoder", self.model)
        self.preprocess = preprocess
        self.config = config
        self.fingerprint = fingerprint
        self.labels = labels
        self.extra = dict(extra or {})  # what the writer of the checkpoint kept beside the weights
        self.path = path
        usual = CPU_BATCH_SIZE if self.device.type == "cpu" else BATCH_SIZE
        self.batch_size = usual if batch_size is None else batch_size

    def __repr__(self) -> str:
        name = type(self.model).__name__
        return f"<Embedder {name} of {self.path}, {self.fingerprint[:12]}, windows of {self.window_seconds:g} s>"

    @property
    def dtype_name(self) -> Dtype:
        """The precision, as `load` takes it."""
        return "bfloat16" if self.dtype == torch.bfloat16 else "float32"

    @property
    def window_seconds(self) -> float:
        """Length of a window."""
        return self.preprocess.config.window_seconds

    @cached_property
    def embedding_width(self) -> int:
        """E."""
        one = cut_windows(
            self.preprocess.config,
            Clip(
                start_seconds=0.0,
                end_seconds=1.0,
                frames=np.zeros((1, 3, 8, 8), np.uint8),
                frame_seconds=np.zeros(1),
                waveform=np.zeros(self.preprocess.config.sample_rate, np.float32),
                sample_rate=self.preprocess.config.sample_rate,
            ),
            np.zeros(1),
        )
        embeddings = self.embed_windows(one)
        vectors = embeddings.audio if embeddings.audio is not None else embeddings.visual
        assert vectors is not None
        return int(vectors.shape[1])

    def plan(
        self, *, hop_seconds: float | None = None, span_seconds: float = SPAN_SECONDS, picture: bool = True
    ) -> WindowPlan:
        """How files are cut for this model; `hop_seconds` None is half a window. Raises ConfigError for no hop."""
        hop = self.window_seconds / 2 if hop_seconds is None else hop_seconds
        if not hop > 0:
            raise ConfigError(f"windows cannot follow each other by {hop:g} s; give a hop above 0")
        return WindowPlan(
            preprocess=self.preprocess.config, hop_seconds=hop, span_seconds=span_seconds, picture=picture
        )

    def requests(
        self, info: MediaInfo, *, hop_seconds: float | None = None, span_seconds: float = SPAN_SECONDS
    ) -> list[ClipRequest]:
        """What to decode of a file so that each of its windows is whole in one clip."""
        return [span.request for span in self.plan(hop_seconds=hop_seconds, span_seconds=span_seconds).spans(info)]

    def embed(
        self,
        source: str | Path | Clip,
        *,
        hop_seconds: float | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
    ) -> Embeddings:
        """The windows of a file (or of a clip, or of the part between two times of either).

        Raises MediaError for a file that cannot be read or has nothing in that part.
        """
        if isinstance(source, Clip):
            start = source.start_seconds if start_seconds is None else max(start_seconds, source.start_seconds)
            end = source.end_seconds if end_seconds is None else min(end_seconds, source.end_seconds)
            hop = self.window_seconds / 2 if hop_seconds is None else hop_seconds
            starts = window_starts(start, max(start, end), window_seconds=self.window_seconds, hop_seconds=hop)
            return self.embed_clip(source, starts)
        return self._embed_file(
            Path(source), self.plan(hop_seconds=hop_seconds), start_seconds=start_seconds, end_seconds=end_seconds
        )

    def embed_clip(self, clip: Clip, starts: Iterable[float] | np.ndarray) -> Embeddings:
        """The windows of `clip` that start at `starts`, in that order."""
        return self.embed_windows(cut_windows(self.preprocess.config, clip, np.asarray(list(starts), np.float64)))

    def embed_sound(
        self,
        source: str | Path | tuple[np.ndarray, int],
        *,
        hop_seconds: float | None = None,
        end_seconds: float | None = None,
    ) -> Embeddings:
        """The sound windows of a file, or of a waveform (S,) in -1..1 with its sample rate, up to `end_seconds`.

        Raises MediaError for a file without sound, or a waveform at another rate than the model's.
        """
        if isinstance(source, tuple):
            waveform, rate = source
            if rate != self.preprocess.config.sample_rate:
                raise MediaError(
                    f"the waveform has {rate} Hz and the model hears {self.preprocess.config.sample_rate}; "
                    "resample it, or give the path of a file"
                )
            clip = Clip(start_seconds=0.0, end_seconds=len(waveform) / rate, waveform=waveform, sample_rate=rate)
            return self.embed(clip, hop_seconds=hop_seconds, end_seconds=end_seconds)
        plan = self.plan(hop_seconds=hop_seconds, picture=False)
        found = self._embed_file(Path(source), plan, end_seconds=end_seconds)
        if found.audio is None:
            raise MediaError(f"'{source}' has no sound that can be decoded")
        return found

    def embed_picture(self, source: str | Path | np.ndarray) -> np.ndarray:
        """float32 (E,), unit length, of a picture file, the first frame of a video, or uint8 (3, h, w) RGB."""
        picture = source if isinstance(source, np.ndarray) else read_picture(source)
        config = self.preprocess.config
        sized = self.preprocess.frames_to_size(torch.from_numpy(np.ascontiguousarray(picture)))
        # A model of several pictures a window sees one that does not move.
        vectors = self._embed_frames(sized.repeat(config.frames_per_window, 1, 1)[None])
        return vectors[0]

    def embed_windows(self, windows: Windows) -> Embeddings:
        """Vectors of raw windows. Sound and picture are embedded apart: neither depends on the other."""
        return Embeddings(
            start_seconds=windows.start_seconds,
            end_seconds=windows.end_seconds,
            audio=self._rows(windows.waveform, windows.has_sound, "audio"),
            visual=self._rows(windows.frames, windows.has_picture, "visual"),
        )

    def window_rows(self, windows: Windows, modality: Literal["audio", "visual"], part: Part) -> np.ndarray | None:
        """float32 (M, E) embeddings of unit length, (M, D) pooled, or (M, L, D) tokens of each window.

        Rows of windows without the modality are NaN; None where no window has it or the model does not take it.
        """
        if modality == "audio":
            return self._rows(windows.waveform, windows.has_sound, modality, part=part)
        return self._rows(windows.frames, windows.has_picture, modality, part=part)

    @torch.inference_mode()
    def tokens(self, clip: Clip, start_seconds: float) -> Output:
        """Everything that the model says about one window, with B = N = 1; a modality that it lacks is None."""
        windows = cut_windows(self.preprocess.config, clip, np.array([start_seconds]))
        batch = self.batch(
            torch.from_numpy(windows.waveform) if windows.has_sound[0] and self._takes("audio") else None,
            torch.from_numpy(windows.frames) if windows.has_picture[0] and self._takes("visual") else None,
        )
        if batch.audio is None and batch.frames is None:
            raise MediaError(f"there is neither sound nor picture at {start_seconds:g} s")
        with self.autocast():
            output = self.encoder(audio=batch.audio, frames=batch.frames)
        assert isinstance(output, Output)
        return output

    def read_windows(
        self,
        path: str | Path,
        plan: WindowPlan,
        *,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
    ) -> Iterator[Windows]:
        """The raw windows of a file, or of the part between two times, a stretch after the other.

        Raises MediaError for a file that cannot be read or has nothing in that part.
        """
        with open_media(path) as media:
            info = media.info
            beyond = (start_seconds is not None and start_seconds >= info.end_seconds) or (
                end_seconds is not None and end_seconds <= info.start_seconds
            )
            if beyond:
                raise MediaError(
                    f"'{path}' lasts from {info.start_seconds:.2f} to {info.end_seconds:.2f} s; "
                    "there is nothing in the part that was asked for"
                )
            spans = plan.spans(info, start_seconds=start_seconds, end_seconds=end_seconds)
            for _, windows in plan.read(media, spans):
                yield windows

    # ---- inside

    def _embed_file(
        self,
        path: Path,
        plan: WindowPlan,
        *,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
    ) -> Embeddings:
        windows = self.read_windows(path, plan, start_seconds=start_seconds, end_seconds=end_seconds)
        return join_embeddings([self.embed_windows(some) for some in windows])

    def _rows(
        self, raw: np.ndarray, present: np.ndarray, modality: Literal["audio", "visual"], *, part: Part = "embedding"
    ) -> np.ndarray | None:
        if not present.any() or not self._takes(modality):
            return None
        embed = self._embed_waveforms if modality == "audio" else self._embed_frames
        found = embed(torch.from_numpy(raw[present]), part)
        rows = np.full((len(present), *found.shape[1:]), np.nan, np.float32)
        rows[present] = found
        return rows

    def _takes(self, modality: Literal["audio", "visual"]) -> bool:
        return getattr(getattr(self.encoder, "config", None), "modalities", "both") in ("both", modality)

    def _embed_waveforms(self, waveforms: Tensor, part: Part = "embedding") -> np.ndarray:
        """float32 (M, E) of (M, S); (M, D) of the pooled part, (M, L, D) tokens."""
        return self._in_batches(waveforms, lambda raw: self.encoder(audio=self.batch(raw, None).audio).audio, part)

    def _embed_frames(self, frames: Tensor, part: Part = "embedding") -> np.ndarray:
        """float32 (M, E) of uint8 (M, C, H, W); (M, D) of the pooled part, (M, L, D) tokens."""
        return self._in_batches(frames, lambda raw: self.encoder(frames=self.batch(None, raw).frames).visual, part)

    @torch.inference_mode()
    def _in_batches(self, raw: Tensor, encode: Callable[[Tensor], Encoded | None], part: Part) -> np.ndarray:
        rows = []
        for some in raw.split(self.batch_size):
            with self.autocast():
                encoded = encode(some)
            assert isinstance(encoded, Encoded)
            if part == "embedding":
                rows.append(torch.nn.functional.normalize(encoded.embedding[:, 0].float(), dim=-1).cpu())
            else:
                rows.append((encoded.pooled if part == "pooled" else encoded.tokens)[:, 0].float().cpu())
        return torch.cat(rows).numpy()

    def batch(self, waveform: Tensor | None, frames: Tensor | None) -> Batch:
        """Preprocessed, on the device: (M, S) and (M, C, H, W) as M clips of one window."""
        return self.preprocess(windows_as_clips(waveform, frames).to(self.device))

    def autocast(self) -> AbstractContextManager:
        """The precision that the model computes in, as a context."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def join_embeddings(parts: Sequence[Embeddings]) -> Embeddings:
    """Consecutive windows of one file as one value."""

    def rows(name: Literal["audio", "visual"]) -> np.ndarray | None:
        found = [getattr(part, name) for part in parts]
        width = next((vectors.shape[1] for vectors in found if vectors is not None), None)
        if width is None:
            return None
        missing = [np.full((len(part), width), np.nan, np.float32) for part in parts]
        return np.concatenate(
            [gap if vectors is None else vectors for vectors, gap in zip(found, missing, strict=True)]
        )

    return Embeddings(
        start_seconds=np.concatenate([np.zeros(0), *(part.start_seconds for part in parts)]),
        end_seconds=np.concatenate([np.zeros(0), *(part.end_seconds for part in parts)]),
        audio=rows("audio"),
        visual=rows("visual"),
    )


def _has(vectors: np.ndarray | None, count: int) -> np.ndarray:
    return np.zeros(count, bool) if vectors is None else ~np.isnan(vectors[:, 0])


def untrained(model: Embedder, seed: int = 0) -> Embedder:
    """A model of the same configuration, with weights that were drawn by `seed` and never trained: a baseline."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = MODELS[model_name(model.model)][1](model.config)
    return Embedder(
        fresh,
        model.preprocess,
        config=model.config,
        fingerprint=f"untrained {seed}",
        device=str(model.device),
        dtype=model.dtype_name,
    )


# ---- loading


def loaded_model(model: "str | Path | Embedder") -> Embedder:
    """`model` itself, or what `load` finds under its name."""
    return model if isinstance(model, Embedder) else load(model)


def load(
    name_or_path: str | Path,
    *,
    device: str = "auto",
    dtype: Dtype = "auto",
    choices: PublishedChoices | None = None,
    audio_frames: int | None = None,
) -> Embedder:
    """The model of a checkpoint file, a checkpoint folder, a run folder, or a published file.

    Of a run folder it is the average over epochs, if the run made one; the best step, if it chose one; else the newest.

    What is no path may be a name in `models.weights.WEIGHTS` that was fetched, or `user/model` on the Hugging Face
    hub, which is downloaded (see `hub.find_weights`). `choices` say what a published file does not show (attention
    heads; the published values where it is None). `audio_frames` runs the model on windows of so many spectrogram
    frames of 10 ms: the time axis of its position tables is cut or interpolated. Raises CheckpointError where there is
    nothing that can be loaded.
    """
    located = find_weights(name_or_path)
    loaded = read_model(located.path, choices=choices or located.choices)
    if loaded.name == "skimmer":
        raise CheckpointError(
            f"{located.path} is a skimmer, which reads features and no media; name the model that made them, and this "
            "one as the skimmer"
        )
    if audio_frames is not None:
        loaded = with_audio_frames(loaded, audio_frames)
    try:
        preprocess = from_dict(PreprocessConfig, loaded.preprocess)
    except ConfigError as error:
        raise CheckpointError(f"{located.path} has preprocessing that this version cannot do: {error}") from None
    return Embedder(
        loaded.model,
        Preprocess(preprocess),
        config=loaded.config,
        fingerprint=loaded.fingerprint,
        labels=loaded.labels,
        extra=loaded.extra,
        path=located.path,
        device=device,
        dtype=dtype,
    )
