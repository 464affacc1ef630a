"""Hits as timelines for editing programs: CMX3600 edit lists, and OpenTimelineIO.

Both name frames by the timecode of the source: its start timecode (of a tag or timecode track; of a Broadcast Wave
file its time reference; otherwise 00:00:00:00) plus the frames since its first one. A moment takes the whole frames
that it touches, at least one, and never leaves the file. Frames are counted as seconds times the exact rate, which
for a file of variable rate is the standard rate nearest to its mean: what an editing program makes of it, too.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from lookhear.errors import UserError
from lookhear.media.timing import STANDARD_RATES, SourceTiming
from lookhear.search.query import Hit
from lookhear.search.timecode import Counting, counting_of

# What CMX3600 holds.
MAX_EVENTS = 999
_REEL_LETTERS = 8
# Reels that mean something else: no reel, black.
_RESERVED_REELS = ("AX", "BL", "BLACK")
# Where nothing has a picture.
_DEFAULT_RATE = Fraction(25)
_RECORD_START = "01:00:00:00"


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A hit, and how its file is counted."""

    rank: int  # 1 is the best
    hit: Hit
    timing: SourceTiming


@dataclass(frozen=True, kw_only=True)
class EditList:
    """The edit list of all hits with one way of counting."""

    text: str
    part: str  # the rate, such as 25 or 29.97df
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """An OpenTimelineIO document."""

    text: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """A moment in frames (or samples) from the start of its file, half-open, and what the file holds."""

    first: int
    end: int
    peak: int
    available: int
    source_start: int  # the number that the file's own timecode gives its first frame


def plain_text(name: str) -> str:
    """A name on one line that is valid Unicode: what is neither is shown as U+FFFD."""
    unprintable = ("Cc", "Cs", "Zl", "Zp")  # controls, surrogates, line and paragraph separators
    return "".join("\ufffd" if unicodedata.category(letter) in unprintable else letter for letter in name)


def edit_lists(placed: Sequence[Placed], *, title: str) -> list[EditList]:
    """CMX3600: a list counts in one way, so one for each rate there is; in each, hits in their order.

    Files with sound only are counted like the first file that has a picture, or at 25 frames a second. No hits make
    one empty list. Raises UserError for more than `MAX_EVENTS` events in a list.
    """
    fallback = _fallback(placed)
    groups: dict[Counting, list[Placed]] = {}
    for each in placed:
        counting = fallback if each.timing.rate is None else _counting(each.timing)
        groups.setdefault(counting, []).append(each)
    reels = _reels(placed)
    lists: list[EditList] = []
    for counting, group in (groups or {fallback: []}).items():
        made = _edit_list(group, counting, reels, title)
        same = sum(each.part.partition("-")[0] == made.part for each in lists)  # rates that differ beyond what is shown
        lists.append(replace(made, part=f"{made.part}-{same + 1}") if same else made)
    return lists


def _edit_list(group: Sequence[Placed], counting: Counting, reels: dict[str, str], title: str) -> EditList:
    if len(group) > MAX_EVENTS:
        raise UserError(
            f"a CMX3600 edit list holds {MAX_EVENTS} events, and these are {len(group)}; "
            "ask for fewer hits (--top), or use the format otio"
        )
    mode = "DROP FRAME" if counting.drop_frame else "NON-DROP FRAME"
    lines = [f"TITLE: {plain_text(title)}", f"FCM: {mode}", ""]
    notes = []
    record = counting.frame(_RECORD_START)
    assert record is not None
    for number, each in enumerate(group, start=1):
        hit, timing = each.hit, each.timing
        frames = _frames(hit, timing, counting)
        length = frames.end - frames.first
        source = [counting.label(frames.source_start + frame) for frame in (frames.first, frames.end)]
        recorded = [counting.label(record + frame) for frame in (0, length)]
        times = " ".join(source + recorded)
        lines.append(f"{number:03d}  {reels[hit.path]:<8} {_channels(timing):<5} C        {times}")
        lines.append(f"* FROM CLIP NAME: {plain_text(Path(hit.path).name)}")
        lines.append(f"* SOURCE FILE: {plain_text(hit.path)}")
        # With a colon in drop-frame, too: there are readers that know locators only so, and FCM says how to count.
        peak = counting.label(record + frames.peak - frames.first).replace(";", ":")
        lines.append(f"* LOC: {peak} GREEN   PEAK {hit.matched.upper()} SCORE {hit.score:.2f}")
        if note := _note(timing, counting.rate):
            lines.append(f"* {note.upper()}")
            notes.append(f"{hit.path}: {note}")
        lines.append("")
        record += length
    part = _shown(counting.rate) + ("df" if counting.drop_frame else "")
    return EditList(text="\n".join(lines), part=part, notes=tuple(dict.fromkeys(notes)))


def _fallback(placed: Sequence[Placed]) -> Counting:
    """How files with sound only are counted: like the first file that has a picture."""
    pictured = [_counting(each.timing) for each in placed if each.timing.rate is not None]
    return pictured[0] if pictured else Counting(rate=_DEFAULT_RATE)


def _counting(timing: SourceTiming) -> Counting:
    assert timing.rate is not None
    return counting_of(timing.rate, timing.timecode)


def _frames(hit: Hit, timing: SourceTiming, counting: Counting, labels: Counting | None = None) -> _Frames:
    """The frames that a moment touches. Where `counting` counts samples, `labels` is how timecodes are counted."""
    begin = timing.start_seconds
    if timing.info.video is None:
        available = max(1, counting.frame_at(timing.seconds))
    else:
        available = max(1, counting.frames_until(timing.seconds))
    first = min(max(counting.frame_at(hit.start_seconds - begin), 0), available - 1)
    end = min(max(counting.frames_until(hit.end_seconds - begin), first + 1), available)
    peak = min(max(counting.frame_at(hit.peak_seconds - begin), first), end - 1)
    return _Frames(
        first=first,
        end=end,
        peak=peak,
        available=available,
        source_start=_source_start(timing, counting, labels or counting),
    )


def _source_start(timing: SourceTiming, counting: Counting, labels: Counting) -> int:
    labelled = labels.frame(timing.timecode) if timing.timecode else None
    if labelled is not None:
        return int(labelled / labels.rate * counting.rate)
    if timing.midnight_samples and timing.info.audio is not None:
        return int(Fraction(timing.midnight_samples, timing.info.audio.sample_rate) * counting.rate)
    return 0


def _note(timing: SourceTiming, rate: Fraction) -> str:
    """What had to be assumed, if anything."""
    name = _shown(rate)
    if timing.info.video is None:
        return f"sound only, counted at {name} frames a second"
    if timing.is_variable:
        return f"variable frame rate, counted at {name} frames a second"
    if timing.rate not in STANDARD_RATES:
        return f"{name} frames a second, which is no rate of editing programs"
    return ""


def _shown(rate: Fraction) -> str:
    return f"{float(rate):.3f}".rstrip("0").rstrip(".")


def _channels(timing: SourceTiming) -> str:
    """What an event takes of a file: V picture, A or AA one or two sound tracks, B picture and one."""
    audio = timing.info.audio
    sound = "" if audio is None else "A" if audio.channels == 1 else "AA"
    if timing.info.video is None:
        return sound
    return {"": "V", "A": "B", "AA": "AA/V"}[sound]


def _reels(placed: Sequence[Placed]) -> dict[str, str]:
    """A reel for each file: up to eight capitals and digits, of its own reel tag or its name, no two alike."""
    reels: dict[str, str] = {}
    for each in placed:
        path = each.hit.path
        if path in reels:
            continue
        plain = unicodedata.normalize("NFKD", each.timing.reel or Path(path).stem).upper()
        wanted = re.sub(r"[^A-Z0-9]", "", plain)[:_REEL_LETTERS] or "CLIP"
        reel, number = wanted, 1
        while reel in reels.values() or reel in _RESERVED_REELS:
            number += 1
            reel = wanted[: _REEL_LETTERS - len(str(number))] + str(number)
        reels[path] = reel
    return reels


# ---- OpenTimelineIO


def otio_timeline(placed: Sequence[Placed], *, title: str) -> Timeline:
    """A picture and a sound track of the same length, a clip for each hit, with what else there is of its file.

    Times are frames at the exact rate of each file, samples where it has only sound. The first clip of a hit has a
    marker of one frame at the peak; score, cosine and what matched are in its metadata under `lookhear`. Raises
    UserError where OpenTimelineIO is not installed.
    """
    otio = _opentimelineio()
    timeline = otio.schema.Timeline(name=plain_text(title))
    picture = otio.schema.Track(name="picture", kind=otio.schema.TrackKind.Video)
    sound = otio.schema.Track(name="sound", kind=otio.schema.TrackKind.Audio)
    timeline.tracks.extend([picture, sound])
    notes = []
    fallback = _fallback(placed)
    for each in placed:
        info = each.timing.info
        if each.timing.rate is not None:
            counting = _counting(each.timing)
        else:
            assert info.audio is not None
            counting = Counting(rate=Fraction(info.audio.sample_rate))
        clip = _otio_clip(otio, each, counting, fallback if each.timing.rate is None else counting)
        gap = otio.schema.Gap(source_range=otio.opentime.TimeRange(duration=clip.source_range.duration))
        if info.video is None:
            picture.append(gap)
            sound.append(clip)
            if each.timing.timecode and fallback.frame(each.timing.timecode) is not None:
                rate = _shown(fallback.rate)
                notes.append(f"{each.hit.path}: sound only, its timecode counted at {rate} frames a second")
            continue
        picture.append(clip)
        if info.audio is None:
            sound.append(gap)
        else:
            heard = clip.clone()
            heard.markers.clear()
            sound.append(heard)
        if note := _note(each.timing, counting.rate):
            notes.append(f"{each.hit.path}: {note}")
    return Timeline(text=otio.adapters.write_to_string(timeline, "otio_json") + "\n", notes=tuple(dict.fromkeys(notes)))


def _otio_clip(otio: Any, each: Placed, counting: Counting, labels: Counting) -> Any:
    hit, frames = each.hit, _frames(each.hit, each.timing, counting, labels)
    rate = float(counting.rate)

    def span(first: int, length: int) -> Any:
        start = otio.opentime.RationalTime(frames.source_start + first, rate)
        return otio.opentime.TimeRange(start, otio.opentime.RationalTime(length, rate))

    name = plain_text(Path(hit.path).name)
    facts = {
        "rank": each.rank,
        "score": hit.score,
        "cosine": hit.cosine,
        "matched": hit.matched,
        "start_seconds": hit.start_seconds,
        "end_seconds": hit.end_seconds,
        "peak_seconds": hit.peak_seconds,
        "drop_frame": counting.drop_frame,
        "variable_frame_rate": each.timing.is_variable,
    }
    return otio.schema.Clip(
        name=name,
        source_range=span(frames.first, frames.end - frames.first),
        media_reference=otio.schema.ExternalReference(
            target_url=Path(hit.path).absolute().as_uri(), available_range=span(0, frames.available)
        ),
        markers=[
            otio.schema.Marker(
                name=f"peak, score {hit.score:.2f}",
                marked_range=span(frames.peak, 1),
                color=otio.schema.MarkerColor.GREEN,
                metadata={"lookhear": {"score": hit.score}},
            )
        ],
        metadata={"lookhear": facts},
    )


def _opentimelineio() -> Any:
    try:
        import opentimelineio
    except ImportError as error:
        raise UserError(
            "the format otio needs OpenTimelineIO, which is not installed; run `pip install 'lookhear[editor]'`, "
            "or use the format edl"
        ) from error
    return opentimelineio
