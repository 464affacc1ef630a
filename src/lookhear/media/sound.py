"""Decodes a sound track to mono at one rate, every sample where its timestamp says.

The track is cut into runs: stretches whose packets follow each other without a gap. Each run is resampled
continuously, so nothing drifts or clicks at the borders of clips, and lies where its first timestamp says.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, gcd
from typing import Any, Literal, Protocol

import numpy as np

from lookhear.media.info import PacketSource

# Timestamps of real files jitter by up to a packet around sound that never stopped: only more is a gap, except
# after a damaged packet, where even one packet is.
_GAP_SECONDS = 0.045
_GAP_AFTER_DAMAGE_SECONDS = 0.002
# packets this far before a clip are not decoded; a longer way is not even read
_SKIP_SECONDS = 5.0
_SEEK_SECONDS = 60.0
# decoders need some packets before they are right (overlapping transforms, bit reservoirs)
_WARM_UP_SECONDS = 0.5
_WARM_SECONDS = 0.1
# samples are resampled in blocks, which saves most of the cost of a call per packet
_BLOCK_SECONDS = 1.0
# more than any resampler holds back
_LAG_SECONDS = 0.1


class Resampler(Protocol):
    """Changes the rate of a mono float32 waveform that is given block by block."""

    def __call__(self, block: np.ndarray | None) -> np.ndarray:
        """The samples that are ready after `block`; None ends the run."""


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """A stretch of sound and the ranges in it (seconds, half-open) that hold no decoded sound."""

    samples: np.ndarray
    silent_spans: tuple[tuple[float, float], ...]


@dataclass(kw_only=True)
class _Run:
    """A stretch without gaps that is being decoded."""

    start_seconds: float
    sample_rate: int
    layout: tuple[str, int]  # sample format, channels
    resample: Resampler
    decoded: int = 0  # samples in
    produced: int = 0  # samples out


@dataclass(frozen=True, kw_only=True)
class _Piece:
    start_seconds: float
    samples: np.ndarray


class SoundTrack:
    """Reads a sound track forward and keeps what the current clips need, as mono float32."""

    def __init__(
        self,
        source: PacketSource,
        make_resampler: Callable[[int, int], Resampler],
        sample_rate: int,
        channel: Literal["mix", "first"],
        end_seconds: float = np.inf,
    ) -> None:
        """`end_seconds`: of the track; packets that claim to be later are damaged."""
        self._end_seconds = end_seconds
        self._source = source
        self._make_resampler = make_resampler
        self._rate = sample_rate
        self._channel = channel
        self._run: _Run | None = None
        self._blocks: list[np.ndarray] = []
        self._block_samples = 0
        self._pieces: deque[_Piece] = deque()
        self._reached_seconds = -np.inf  # end of the last packet
        self._valid_from_seconds = -np.inf  # decoded sound before this is warm-up
        self._held_packet: Any = None
        self._gap_seconds = _GAP_SECONDS
        self._ended = False

    def read(self, start_seconds: float, end_seconds: float) -> Waveform:
        """The sound of [start, end). Starts must not go back before the last `forget`."""
        if start_seconds > max(self._reached_seconds, 0.0) + _SKIP_SECONDS and not self._ended:
            self._skip_to(start_seconds)
        while not self._ended and self._reached_seconds < end_seconds + _LAG_SECONDS:
            self._decode(self._next_packet())
        if self._ended:
            self._close_run()
        else:
            self._resample_blocks()
        return self._assemble(start_seconds, end_seconds)

    def forget(self, before_seconds: float) -> None:
        """Drops sound that ends before `before_seconds`."""
        while self._pieces:
            piece = self._pieces[0]
            if piece.start_seconds + len(piece.samples) / self._rate > before_seconds:
                break
            self._pieces.popleft()

    def _next_packet(self) -> Any | None:
        packet, self._held_packet = self._held_packet, None
        return packet if packet is not None else self._source.next_packet()

    def _skip_to(self, seconds: float) -> None:
        """Passes over packets that nobody will hear, without decoding them."""
        self._close_run()
        needed = seconds - _WARM_UP_SECONDS
        if self._source.is_seekable and seconds > max(self._reached_seconds, 0.0) + _SEEK_SECONDS:
            self._held_packet = self._source.next_packet() if self._source.seek(seconds - 2.0) else None
            if self._held_packet is None or self._start_of(self._held_packet) > needed:
                self._held_packet = None
                self._source.restart()
        while True:
            packet = self._next_packet()
            if packet is None:
                self._ended = True
                return
            if self._start_of(packet) + (packet.duration or 0) * self._source.tick_seconds >= needed:
                break
        self._held_packet = packet
        self._source.flush()
        self._valid_from_seconds = seconds - _WARM_SECONDS

    def _start_of(self, packet: Any) -> float:
        return -np.inf if packet.pts is None else packet.pts * self._source.tick_seconds

    def _decode(self, packet: Any | None) -> None:
        if packet is not None and self._start_of(packet) > self._end_seconds + 1.0:
            return
        frames = self._source.decode(packet)
        if frames is None:
            self._gap_seconds = _GAP_AFTER_DAMAGE_SECONDS
        for frame in frames or []:
            self._add(frame)
            self._gap_seconds = _GAP_SECONDS
        if packet is None:
            self._ended = True
        elif packet.pts is not None:
            end = (packet.pts + (packet.duration or 0)) * self._source.tick_seconds
            self._reached_seconds = max(self._reached_seconds, end)

    def _add(self, frame: Any) -> None:
        """Appends a decoded frame to the current run, or starts the next one where it does not follow."""
        count, rate, layout = frame.samples, frame.sample_rate, (frame.format.name, frame.layout.nb_channels)
        run, pts = self._run, frame.pts
        expected = None if run is None else run.start_seconds + run.decoded / run.sample_rate
        start = pts * self._source.tick_seconds if pts is not None else expected
        if start is None or count == 0 or rate <= 0:
            return
        samples = self._source.samples(frame)
        if samples is None:
            return
        if (
            run is None
            or rate != run.sample_rate
            or layout != run.layout
            or abs(start - (expected or 0)) > self._gap_seconds
        ):
            self._close_run()
            skipped = self._warm_up_samples(start, rate)
            if skipped >= count:
                return
            samples = samples[:, skipped:] if frame.format.is_planar else samples[:, skipped * layout[1] :]
            count -= skipped
            run = self._run = _Run(
                start_seconds=start + skipped / rate,
                sample_rate=rate,
                layout=layout,
                resample=self._make_resampler(rate, self._rate),
            )
        run.decoded += count
        self._blocks.append(samples)
        self._block_samples += count
        if self._block_samples >= _BLOCK_SECONDS * rate:
            self._resample_blocks()

    def _warm_up_samples(self, start_seconds: float, rate: int) -> int:
        """How many samples from `start_seconds` on are warm-up, up to a sample both rates have in common."""
        if self._valid_from_seconds == -np.inf:
            return 0
        step = rate // gcd(rate, self._rate)
        first = ceil(self._valid_from_seconds * rate / step) * step
        return max(0, first - round(start_seconds * rate))

    def _resample_blocks(self) -> None:
        if self._run is not None and self._blocks:
            self._produce(self._run.resample(self._mono(np.concatenate(self._blocks, axis=1), self._run.layout)))
        self._blocks, self._block_samples = [], 0

    def _mono(self, samples: np.ndarray, layout: tuple[str, int]) -> np.ndarray:
        """Decoded samples, planar (C, S) or packed (1, S * C), as float32 (S,) in -1..1."""
        if not layout[0].endswith("p"):
            samples = samples.reshape(-1, layout[1]).T
        mono = samples[0] if self._channel == "first" or len(samples) == 1 else samples.mean(axis=0, dtype=np.float32)
        if samples.dtype == np.uint8:
            return (mono.astype(np.float32) - 128.0) / 128.0
        if samples.dtype.kind == "i":
            return (mono.astype(np.float64) / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
        return np.ascontiguousarray(mono, dtype=np.float32)

    def _close_run(self) -> None:
        self._resample_blocks()
        if self._run is not None:
            self._produce(self._run.resample(None))
            self._run = None

    def _produce(self, samples: np.ndarray) -> None:
        run = self._run
        assert run is not None
        # the tail of the resampler's filter is no sound of the file
        samples = samples[: max(0, round(run.decoded * self._rate / run.sample_rate) - run.produced)]
        if len(samples):
            start = run.start_seconds + run.produced / self._rate
            self._pieces.append(_Piece(start_seconds=start, samples=samples))
            run.produced += len(samples)

    def _assemble(self, start_seconds: float, end_seconds: float) -> Waveform:
        total = round((end_seconds - start_seconds) * self._rate)
        waveform = np.zeros(total, dtype=np.float32)
        covered: list[tuple[int, int]] = []
        for piece in self._pieces:
            offset = round((piece.start_seconds - start_seconds) * self._rate)
            first, last = max(offset, 0), min(offset + len(piece.samples), total)
            if first < last:
                waveform[first:last] = piece.samples[first - offset : last - offset]
                covered.append((first, last))
        spans, position = [], 0
        for first, last in [*sorted(covered), (total, total)]:
            # a single missing sample is rounding
            if first - position > 1:
                spans.append((start_seconds + position / self._rate, start_seconds + first / self._rate))
            position = max(position, last)
        return Waveform(samples=waveform, silent_spans=tuple(spans))
