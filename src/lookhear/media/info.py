"""What a media file is said to hold, and what the readers of its two tracks share.

Times are seconds on the clock of the file: the timestamps of its packets with edit lists applied. Nothing
here knows the decoder; `decode.py` is its only door.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

# what `MediaInfo.problems` says of a sound file with a picture on its cover
COVER_ART = "its only picture is cover art"


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """The picture track of a file. Width and height are those of the shown picture, after rotation."""

    codec: str
    width: int
    height: int
    # clockwise, 0, 90, 180 or 270; frames come already turned
    rotation_degrees: int
    frames_per_second: float
    start_seconds: float
    end_seconds: float
    num_frames: int
    is_cover_art: bool = False
    # "PQ" or "HLG" where the picture has a high dynamic range (frames come tone-mapped), else None
    hdr: str | None = None


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """The sound track of a file."""

    codec: str
    sample_rate: int
    channels: int
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """What a file holds, found without decoding more than one frame."""

    path: Path
    container: str
    # what the header promises; None where it promises nothing
    declared_seconds: float | None
    video: VideoInfo | None
    audio: AudioInfo | None
    # of both tracks together, from packets that are really there
    start_seconds: float
    end_seconds: float
    # what is wrong with the file, a sentence each
    problems: tuple[str, ...] = ()


def is_loss(problem: str) -> bool:
    """Whether something of the file is missing. A cover picture is nothing that happens: a song with one is whole."""
    return problem != COVER_ART


class PacketSource(Protocol):
    """One stream of one file, read forward. Packets and frames are the decoder's own objects."""

    # seconds of one tick of a timestamp
    tick_seconds: float
    # whether `seek` can be trusted in this container
    is_seekable: bool

    def next_packet(self) -> Any | None:
        """The next packet of the stream, None at its end."""

    def decode(self, packet: Any | None, *, skip_unreferenced: bool = False) -> list[Any] | None:
        """Frames that `packet` (None: the end) brings out; None where it is damaged."""

    def samples(self, frame: Any) -> np.ndarray | None:
        """The samples of a sound frame, planar (C, S) or packed (1, S * C); None where it has none to give."""

    def flush(self) -> None:
        """Makes the decoder forget everything, before packets that do not follow the last one."""

    def seek(self, seconds: float) -> bool:
        """Goes to a keyframe before `seconds`; False where the file refuses."""

    def restart(self) -> None:
        """Goes back to the first packet."""

    def note_damage(self, seconds: float | None) -> None:
        """Remembers that something at `seconds` could not be used."""
