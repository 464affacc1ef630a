"""`ServeSettings`: what the server may spend on whoever asks."""

from dataclasses import dataclass

from lookhear.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Limits. Nothing that a visitor sends takes more time, memory or disk than these."""

    workers: int = 2
    """decoding processes for pictures and previews, and one each for uploads and exports; 0: all in this process and
    without limits, for tests"""
    decode_seconds: float = 60.0
    """for one upload, preview or picture"""
    cut_seconds: float = 300.0
    """for one export, which reads many files"""
    memory_limit_bytes: int = 2 << 30
    """of a decoding process"""
    max_upload_bytes: int = 256 << 20
    """of one upload"""
    receive_seconds: float = 120.0
    """for the bytes of an upload to arrive"""
    max_receiving: int = 4
    """uploads at one time; one more is told to come back"""
    max_examples: int = 64
    """uploaded examples that are remembered, as vectors; the oldest is forgotten first"""
    example_seconds: float = 3600.0
    """how long one is remembered"""
    searches: int = 2
    """searches that compute at one time; more wait"""
    max_waiting: int = 64
    """jobs of one sort that wait for their turn; one more is told to come back"""
    preview_bytes: int = 512 << 20
    """of previews kept on the disk"""
    preview_seconds: float = 30.0
    """of one preview, at most"""
    picture_bytes: int = 64 << 20
    """of pictures kept in memory"""
    max_cut_seconds: float = 600.0
    """of all clips of one export together"""
    max_cut_clips: int = 100
    """of one export"""
    max_cut_bytes: int = 2 << 30
    """of all clips of one export together"""

    def __post_init__(self) -> None:
        if not self.decode_seconds > 0 or not self.max_upload_bytes > 0:
            raise ConfigError(
                f"nothing can be read in {self.decode_seconds:g} s and {self.max_upload_bytes} bytes; give limits "
                "above 0"
            )
