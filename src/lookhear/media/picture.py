"""Finds and decodes the frames that are shown at asked times, in one forward pass over a picture track.

Packets are read a little ahead of what is decoded, which tells three things before any decoding: which packet
is shown at an asked time, from which keyframe it can be reached, and which packets nobody asks for. Decoding
jumps to that keyframe, and frames that no other frame refers to are skipped. Timestamps are integers in ticks
of the track.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lookhear.media.info import PacketSource

# a file's own time written as a float is a hair off the exact tick
_CLOCK_TOLERANCE_SECONDS = 1e-6
# a longer way to the next asked time is not read through but jumped over
_SEEK_SECONDS = 30.0
_MAX_QUEUED_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class ShownFrame:
    """A frame (3, H, W) uint8 and the time at which it is first shown."""

    seconds: float
    pixels: np.ndarray


class PictureTrack(Protocol):
    """Answers which frame is shown at a time. All times must be announced before they are passed."""

    def announce(self, seconds: Iterable[float]) -> None:
        """Says that the frames shown at these times will be asked for."""

    def frame_at(self, seconds: float) -> ShownFrame | None:
        """The frame shown at an announced time; None where the track shows none or it cannot be decoded."""

    def forget(self, before_seconds: float) -> None:
        """Drops everything that only earlier times need."""


class _Track:
    """What both ways of reading share: announced times, and the frames kept for them."""

    def __init__(self, source: PacketSource, convert: Callable[[Any], np.ndarray | None]) -> None:
        self._source = source
        self._convert = convert
        self._targets: list[int] = []  # announced times, ascending
        self._order: list[int] = []  # timestamps of shown frames, ascending
        self._kept: dict[int, np.ndarray] = {}
        self._end = 0  # end of the last shown frame that is known
        self._ended = False

    def announce(self, seconds: Iterable[float]) -> None:
        """See `PictureTrack`."""
        for value in seconds:
            insort(self._targets, self._ticks(value))

    def forget(self, before_seconds: float) -> None:
        """See `PictureTrack`."""
        before = self._ticks(before_seconds)
        del self._targets[: bisect_left(self._targets, before)]
        # the frame that is shown at that time stays
        del self._order[: max(0, bisect_right(self._order, before) - 1)]
        first = self._order[0] if self._order else 0
        self._kept = {pts: pixels for pts, pixels in self._kept.items() if pts >= first}

    def _ticks(self, seconds: float) -> int:
        return int((seconds + _CLOCK_TOLERANCE_SECONDS) // self._source.tick_seconds)

    def _asked_between(self, start: int, end: int) -> bool:
        position = bisect_left(self._targets, start)
        return position < len(self._targets) and self._targets[position] < end

    def _keep(self, pts: int, frame: Any) -> bool:
        pixels = self._convert(frame)
        if pixels is not None:
            self._kept[pts] = pixels
        return pixels is not None

    def _answer(self, pts: int | None) -> ShownFrame | None:
        if pts is None or pts not in self._kept:
            return None
        return ShownFrame(seconds=pts * self._source.tick_seconds, pixels=self._kept[pts])


class IndexedPictureTrack(_Track):
    """A track whose packets carry presentation timestamps: the usual case, and the fast one."""

    def __init__(
        self,
        source: PacketSource,
        convert: Callable[[Any], np.ndarray | None],
        *,
        end_seconds: float = np.inf,
        is_truncated: bool = False,
    ) -> None:
        """`end_seconds`: of the track; packets that claim to be later are damaged."""
        super().__init__(source, convert)
        self._end_seconds = end_seconds
        self._is_truncated = is_truncated
        self._queue: deque[Any] = deque()  # read, not yet decoded
        self._queued: set[int] = set()
        self._queued_bytes = 0
        self._last_dts: int | None = None
        self._output: int | None = None  # latest timestamp that came out of the decoder
        self._passed: set[int] = set()  # decoded or skipped without being kept
        self._failed: set[int] = set()
        self._rewound: set[int] = set()
        self._needs_keyframe = True
        self._fed: list[int] = []  # timestamps in decoding order since the last keyframe
        self._resolved = -(1 << 62)  # announced times up to here are done
        self._step = 0  # the shortest time a frame is shown

    def frame_at(self, seconds: float) -> ShownFrame | None:
        """See `PictureTrack`."""
        target = self._ticks(seconds)
        # other clips' times on the way come first: the decoder must not jump over them
        first, last = bisect_right(self._targets, self._resolved), bisect_left(self._targets, target)
        for earlier in self._targets[first:last]:
            self._resolve(earlier)
        self._resolved = max(self._resolved, target)
        return self._answer(self._resolve(target))

    def _resolve(self, target: int) -> int | None:
        """Decodes until the frame shown at `target` is kept or known to be lost; its timestamp."""
        wanted = self._locate(target)
        if wanted is None:
            return None
        if wanted in self._queued:
            self._jump(wanted)
        while wanted not in self._kept and wanted not in self._failed:
            if wanted in self._passed:
                # It went by before it was announced. Once more from before it, but not for ever: the
                # decoder may never bring it out.
                if wanted in self._rewound:
                    return None
                self._rewind(target)
                if self._locate(target) != wanted:
                    return None
                self._rewound.add(wanted)
            elif wanted not in self._queued and self._output is not None and self._output > wanted:
                self._failed.add(wanted)
            elif self._queue:
                self._feed()
            elif not self._ended:
                self._pull()
            else:
                self._take(self._source.decode(None) or [])
                self._source.flush()
                self._needs_keyframe = True
                if wanted not in self._kept and wanted not in self._passed:
                    self._failed.add(wanted)
        return wanted

    def forget(self, before_seconds: float) -> None:
        """See `PictureTrack`."""
        super().forget(before_seconds)
        first = self._order[0] if self._order else 0
        self._passed = {pts for pts in self._passed if pts >= first}
        self._failed = {pts for pts in self._failed if pts >= first}

    def _reset(self) -> None:
        """Forgets all packets, for a start from another place of the file. What was kept stays."""
        self._queue.clear()
        self._queued.clear()
        self._order.clear()
        self._passed.clear()
        self._failed.clear()
        self._queued_bytes = 0
        self._ended = False
        self._needs_keyframe = True
        self._fed.clear()
        self._last_dts = self._output = None

    def _locate(self, target: int) -> int | None:
        """The timestamp of the packet shown at `target`, reading ahead until that is certain."""
        reached = self._last_dts if self._last_dts is not None else 0
        if (
            self._source.is_seekable
            and not self._ended
            and (target - reached) * self._source.tick_seconds > _SEEK_SECONDS
        ):
            self._seek(target)
        while not self._ended and (self._last_dts is None or self._last_dts <= target):
            self._pull()
            if self._queued_bytes > _MAX_QUEUED_BYTES:
                self._feed()
        position = bisect_right(self._order, target) - 1
        if position < 0 or (position == len(self._order) - 1 and target >= self._end):
            return None
        wanted = self._order[position]
        # Frames that were cut off may belong between the last ones that are left.
        is_uncertain = self._is_truncated and self._ended and target > (self._last_dts or 0)
        return None if is_uncertain and target >= wanted + self._step else wanted

    def _pull(self) -> None:
        packet = self._source.next_packet()
        if packet is None:
            self._ended = True
            return
        self._queue.append(packet)
        self._queued_bytes += packet.size
        pts = packet.pts
        if pts is None or pts * self._source.tick_seconds > self._end_seconds + 1.0:
            return
        # without a decode timestamp, later packets may reach back: a second is more than any reordering
        dts = packet.dts if packet.dts is not None else pts - int(1 / self._source.tick_seconds)
        self._last_dts = dts if self._last_dts is None else max(self._last_dts, dts)
        if not packet.is_discard:
            self._queued.add(pts)
            insort(self._order, pts)
            end = pts + max(packet.duration or 0, 1)
            self._end = end if len(self._order) == 1 else max(self._end, end)
            if packet.duration:
                self._step = min(self._step or packet.duration, packet.duration)

    def _jump(self, wanted: int) -> None:
        """Drops queued packets before the last keyframe from which `wanted` can be reached."""
        for position in range(len(self._queue) - 1, 0, -1):
            packet = self._queue[position]
            if packet.is_keyframe and packet.pts is not None and packet.pts <= wanted:
                break
        else:
            return
        for _ in range(position):
            self._drop(self._queue.popleft())
        self._source.flush()
        self._needs_keyframe = True

    def _drop(self, packet: Any) -> None:
        self._queued_bytes -= packet.size
        if packet.pts in self._queued:
            self._queued.discard(packet.pts)
            self._passed.add(packet.pts)

    def _feed(self) -> None:
        """Decodes the first queued packet and keeps what is asked for."""
        packet = self._queue[0]
        is_asked = packet.pts is None or self._is_asked(packet.pts)
        self._queue.popleft()
        self._queued_bytes -= packet.size
        self._queued.discard(packet.pts)
        if self._needs_keyframe and not packet.is_keyframe:
            self._failed.add(packet.pts)
            return
        self._needs_keyframe = False
        if packet.is_keyframe:
            self._fed.clear()
        if packet.pts is not None:
            self._fed.append(packet.pts)
        frames = self._source.decode(packet, skip_unreferenced=not is_asked)
        if frames is None:
            self._break(packet.pts, is_referenced=not packet.is_disposable)
        else:
            if not is_asked:
                self._passed.add(packet.pts)
            self._take(frames)

    def _break(self, pts: int | None, *, is_referenced: bool = True) -> None:
        """Gives up a damaged frame, and what was decoded after it: that shows what never was."""
        if pts is not None:
            self._failed.add(pts)
        if not is_referenced:
            return
        if pts in self._fed:
            self._failed.update(self._fed[self._fed.index(pts) :])
        self._needs_keyframe = True
        self._take(self._source.decode(None) or [])
        self._source.flush()

    def _is_asked(self, pts: int) -> bool:
        """Whether any announced time falls to the frame at `pts`: needs its successor's timestamp."""
        position = bisect_right(self._order, pts)
        while not self._ended and (
            position >= len(self._order) or self._last_dts is None or self._last_dts < self._order[position]
        ):
            self._pull()
            position = bisect_right(self._order, pts)
        return self._asked_between(pts, self._order[position] if position < len(self._order) else self._end)

    def _take(self, frames: list[Any]) -> None:
        damaged: int | None = None
        for frame in frames:
            pts = frame.pts
            if pts is None:
                continue
            self._output = pts if self._output is None else max(self._output, pts)
            if frame.is_corrupt and pts not in self._failed:
                self._source.note_damage(pts * self._source.tick_seconds)
                self._failed.add(pts)
                damaged = pts
            if pts in self._failed:
                continue
            if not self._is_asked(pts):
                self._passed.add(pts)
            elif not self._keep(pts, frame):
                self._failed.add(pts)
        if damaged is not None:
            self._break(damaged)

    def _seek(self, target: int) -> None:
        """Goes to a keyframe at or before `target`, or back to the start where the file cannot."""
        seconds = target * self._source.tick_seconds
        for back_seconds in (1.0, 20.0, 120.0):
            if not self._source.seek(seconds - back_seconds):
                break
            self._reset()
            while not self._ended and not (self._queue and self._queue[-1].is_keyframe):
                self._pull()
            if not self._ended and self._queue[-1].pts is not None and self._queue[-1].pts <= target:
                return
        self._source.restart()
        self._reset()

    def _rewind(self, target: int) -> None:
        self._source.restart()
        self._reset()
        if self._source.is_seekable and target * self._source.tick_seconds > _SEEK_SECONDS:
            self._seek(target)


class SequentialPictureTrack(_Track):
    """A track whose packets do not say when they are shown (old AVI): every frame is decoded in turn."""

    def __init__(self, source: PacketSource, convert: Callable[[Any], np.ndarray | None]) -> None:
        super().__init__(source, convert)
        self._current: Any = None
        self._is_damaged = False

    def frame_at(self, seconds: float) -> ShownFrame | None:
        """See `PictureTrack`."""
        target = self._ticks(seconds)
        while not self._ended and not (self._order and self._order[-1] > target):
            self._advance()
        position = bisect_right(self._order, target) - 1
        if position < 0 or (self._ended and target >= self._end):
            return None
        return self._answer(self._order[position])

    def _advance(self) -> None:
        packet = self._source.next_packet()
        frames = self._source.decode(packet)
        if frames is None or any(frame.is_corrupt for frame in frames):
            self._is_damaged = True
        for frame in frames or []:
            if not frame.is_corrupt:
                self._replace(frame)
        if packet is None:
            self._ended = True
            self._replace(None)

    def _replace(self, frame: Any | None) -> None:
        """Ends the time of the current frame: it is kept if an announced time falls into it."""
        # here the decoder's own order is right, and presentation timestamps are guesses
        pts = None if frame is None else frame.dts if frame.dts is not None else frame.pts
        if frame is not None and (pts is None or (self._order and pts <= self._order[-1])):
            return
        if self._current is not None:
            start = self._order[-1]
            until = start + max(self._current.duration, 1)
            if pts is not None and not self._is_damaged:
                until = pts
            if self._asked_between(start, until):
                self._keep(start, self._current)
        if frame is not None and pts is not None:
            self._order.append(pts)
            self._end = pts + max(frame.duration, 1)
        self._current, self._is_damaged = frame, False
