"""Files and clips -> raw windows: which windows a file has, how to decode them, and how to cut them.

M windows, P pictures a window, S samples, C picture channels (3 x P), H rows, W columns. A sound window and a picture
window are the same window of the file's clock. Needs no model, so a decoding process can do all of it.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lookhear.data.preprocess import Preprocess, PreprocessConfig, cut_padded
from lookhear.data.sampling import frame_times, nearest_frames, window_starts
from lookhear.media.clip import Clip, ClipRequest
from lookhear.media.decode import MediaFile
from lookhear.media.info import MediaInfo

SPAN_SECONDS = 30.0
# A window of sound reaches a little beyond its ends (the last spectrogram frame is longer than a hop).
_MARGIN_SECONDS = 0.02
# A frame stands for a time that it was not asked for only if it began to be shown this near to it.
_NEAR_SECONDS = 1.0
# A window has sound if at least this much of it was decoded.
_LEAST_SOUND_SECONDS = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Windows cut out of a file, raw. Rows of a modality that a window lacks are zeros."""

    start_seconds: np.ndarray  # float64 (M,)
    end_seconds: np.ndarray  # float64 (M,)
    waveform: np.ndarray  # float32 (M, S); PreprocessConfig.missing_sample where there is no sound
    frames: np.ndarray  # uint8 (M, C, H, W)
    has_sound: np.ndarray  # bool (M,)
    has_picture: np.ndarray  # bool (M,)

    def __len__(self) -> int:
        return len(self.start_seconds)

    @property
    def sound(self) -> np.ndarray:
        """float32 (M, S): `waveform` to listen to or measure, silent where there is no sound."""
        return np.nan_to_num(self.waveform)


@dataclass(frozen=True, kw_only=True)
class Span:
    """Windows that are decoded together, as one clip."""

    request: ClipRequest
    start_seconds: tuple[float, ...]  # of each window
    picture_seconds: tuple[tuple[float, ...], ...]  # of each window: the times of its pictures, none without picture


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """Which windows of a file are embedded, and how they are cut. Needs no model, so a decoding process can have it."""

    preprocess: PreprocessConfig
    hop_seconds: float
    span_seconds: float = SPAN_SECONDS
    sound: bool = True
    picture: bool = True

    def spans(
        self, info: MediaInfo, *, start_seconds: float | None = None, end_seconds: float | None = None
    ) -> list[Span]:
        """The windows of a file, or of the part between two times, in spans of about `span_seconds`.

        Spans overlap, so that every window is whole in one of them.
        """
        starts = self.starts(info, start_seconds=start_seconds, end_seconds=end_seconds)
        window = self.preprocess.window_seconds
        per_span = 1 + max(0, int((self.span_seconds - window) / self.hop_seconds + 1e-6))
        return [self._span(info, starts[first : first + per_span]) for first in range(0, len(starts), per_span)]

    def starts(
        self, info: MediaInfo, *, start_seconds: float | None = None, end_seconds: float | None = None
    ) -> np.ndarray:
        """float64 (M,): when the windows of a file, or of the part between two times, start."""
        start = info.start_seconds if start_seconds is None else max(start_seconds, info.start_seconds)
        end = info.end_seconds if end_seconds is None else min(end_seconds, info.end_seconds)
        return window_starts(
            start, max(start, end), window_seconds=self.preprocess.window_seconds, hop_seconds=self.hop_seconds
        )

    def spans_at(self, info: MediaInfo, starts: np.ndarray) -> list[Span]:
        """The windows that start at `starts` (M,), ascending: those that touch in spans of about `span_seconds`."""
        spans, first = [], 0
        window = self.preprocess.window_seconds
        for number in range(1, len(starts) + 1):
            ends = number == len(starts) or starts[number] > starts[number - 1] + window
            if ends or starts[number] + window > starts[first] + self.span_seconds:
                spans.append(self._span(info, starts[first:number]))
                first = number
        return spans

    def read(self, media: MediaFile, spans: Iterable[Span]) -> Generator[tuple[Clip, Windows], None, None]:
        """Decodes `spans` in one pass: the clip (for its problems and silent spans) and its windows, for each.

        Spans are drawn as they are needed, about a second of media ahead.
        """
        config = self.preprocess
        drawn: deque[Span] = deque()

        def requests() -> Iterator[ClipRequest]:
            for span in spans:
                drawn.append(span)
                yield span.request

        clips = media.read(
            requests(),
            short_side=self._short_side(media.info),
            sample_rate=config.sample_rate,
            channel=config.channel,
        )
        for clip in clips:
            yield clip, self._cut(media.info, drawn.popleft(), clip)

    def _span(self, info: MediaInfo, starts: np.ndarray) -> Span:
        config, video = self.preprocess, info.video if self.picture else None
        pictures: list[tuple[float, ...]] = []
        for start in starts:
            overlaps = video and start < video.end_seconds and start + config.window_seconds > video.start_seconds
            if video is None or not overlaps:
                pictures.append(())
                continue
            # A window that the picture track covers in part shows what there is of it.
            times = frame_times(float(start), config.window_seconds, config.frames_per_window)
            last = max(video.start_seconds, video.end_seconds - 0.001)
            pictures.append(tuple(np.clip(times, video.start_seconds, last).tolist()))
        asked = sorted({time for times in pictures for time in times})
        first = max(info.start_seconds, float(starts[0]) - _MARGIN_SECONDS)
        last = min(info.end_seconds, float(starts[-1]) + config.window_seconds + _MARGIN_SECONDS)
        request = ClipRequest(
            start_seconds=min(first, *asked[:1]) if asked else first,
            end_seconds=max(last, first + _MARGIN_SECONDS),
            frame_seconds=tuple(asked) if asked else None,
            sound=self.sound and info.audio is not None,
        )
        return Span(request=request, start_seconds=tuple(starts.tolist()), picture_seconds=tuple(pictures))

    def _short_side(self, info: MediaInfo) -> int | None:
        """The size at which pictures come out of the decoder ready to be cut."""
        # The size of a damaged track may be written nowhere.
        if info.video is None or not min(info.video.height, info.video.width):
            return None
        height, width = info.video.height, info.video.width
        config = self.preprocess
        scale = max(config.picture_height / height, config.picture_width / width)
        return max(1, round(min(height, width) * scale))

    def _cut(self, info: MediaInfo, span: Span, clip: Clip) -> Windows:
        asked = np.array(span.request.frame_seconds or ())
        frame_seconds = clip.frame_seconds
        if clip.frames is not None and len(clip.frames) == len(asked):
            # Each answers the time that it was asked for, however long before it began to be shown.
            frame_seconds, near = asked, 1e-6
        else:
            near = _NEAR_SECONDS
        frames = [_choose(frame_seconds, np.array(times), near) for times in span.picture_seconds]
        return cut_windows(
            self.preprocess, clip, np.array(span.start_seconds), frames=frames, end_seconds=info.end_seconds
        )


def cut_windows(
    config: PreprocessConfig,
    clip: Clip,
    starts: np.ndarray,
    *,
    frames: Sequence[np.ndarray | None] | None = None,
    end_seconds: float | None = None,
) -> Windows:
    """The windows of `clip` that start at `starts` (M,).

    `frames` says which of the clip's frames each window shows; None: those nearest in time, if they are near.
    `end_seconds` is where the file ends (default: where the clip does). Raises ValueError for a clip whose sample
    rate is not the configuration's.
    """
    preprocess = Preprocess(config)
    starts = np.asarray(starts, np.float64)
    count, channels = len(starts), 3 * config.frames_per_window
    waveform = np.zeros((count, config.window_samples), np.float32)
    pixels = np.zeros((count, channels, config.picture_height, config.picture_width), np.uint8)
    has_sound, has_picture = np.zeros(count, bool), np.zeros(count, bool)
    if clip.waveform is not None and clip.sample_rate != config.sample_rate:
        raise ValueError(f"the clip has {clip.sample_rate} Hz, this preprocessing wants {config.sample_rate}")
    for row, start in enumerate(starts.tolist()):
        if _sound_seconds(clip, start, start + config.window_seconds) >= _LEAST_SOUND_SECONDS:
            assert clip.waveform is not None
            first = preprocess.sample_at(start - clip.start_seconds)
            waveform[row] = cut_padded(clip.waveform, first, config.window_samples, missing=config.missing_sample)
            has_sound[row] = True
        if clip.frames is None or not len(clip.frames):
            continue
        if frames is None:
            times = frame_times(start, config.window_seconds, config.frames_per_window)
            spacing = float(np.median(np.diff(clip.frame_seconds))) if len(clip.frames) > 1 else 0.0
            chosen = _choose(clip.frame_seconds, times, max(_NEAR_SECONDS, spacing))
        else:
            chosen = frames[row]
        if chosen is not None:
            picture = preprocess.frames_to_size(torch.from_numpy(np.ascontiguousarray(clip.frames[chosen])))
            pixels[row] = picture.flatten(0, 1).numpy()
            has_picture[row] = True
    file_end = clip.end_seconds if end_seconds is None else end_seconds
    ends = starts + config.window_seconds
    return Windows(
        start_seconds=starts,
        end_seconds=np.where(file_end > starts, np.minimum(ends, file_end), ends),
        waveform=waveform,
        frames=pixels,
        has_sound=has_sound,
        has_picture=has_picture,
    )


def join_windows(parts: Sequence[Windows]) -> Windows:
    """Windows of several files or stretches, one after another."""
    return Windows(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def _choose(frame_seconds: np.ndarray, times: np.ndarray, near: float) -> np.ndarray | None:
    """int64 (P,): the frame nearest to each of `times` (P,); None if there are no times or one has no frame near."""
    if not len(times) or not len(frame_seconds):
        return None
    chosen = nearest_frames(frame_seconds, times)
    return chosen if (np.abs(frame_seconds[chosen] - times) <= near).all() else None


def _sound_seconds(clip: Clip, start: float, end: float) -> float:
    """How much decoded sound lies in [start, end)."""
    if clip.waveform is None or not len(clip.waveform):
        return 0.0
    start, end = max(start, clip.start_seconds), min(end, clip.end_seconds)
    silent = sum(max(0.0, min(end, after) - max(start, before)) for before, after in clip.silent_spans)
    return max(0.0, end - start) - silent
