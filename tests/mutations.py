"""Media files as bad disks, broken downloads and bad intentions leave them: seeded mutations of small made ones."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from synthetic import make_sound, make_video

RATE = 10.0
_PIXELS = (48, 64)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A file that may be broken, and what was done to it."""

    name: str
    content: bytes
    what: str


def make_originals(folder: Path) -> dict[str, bytes]:
    """A second of sound, picture or both in every container that matters, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = {"seconds": 1.0, "frames_per_second": RATE, "beep_times": (0.2, 0.6)}
    sound = {"seconds": 1.0, "beep_times": (0.2, 0.6)}
    paths = [
        make_video(folder / "clip.mp4", **clip),  # type: ignore[arg-type]
        make_video(folder / "clip.mkv", sound_codec="ac3", sound_rate=48000, **clip),  # type: ignore[arg-type]
        make_video(folder / "clip.webm", codec="libvpx", sound_codec="libopus", sound_rate=48000, **clip),  # type: ignore[arg-type]
        make_video(folder / "clip.avi", codec="mpeg4", sound_codec="mp3", sound_rate=44100, **clip),  # type: ignore[arg-type]
        make_video(folder / "clip.flv", codec="flv1", sound_codec="mp3", sound_rate=44100, **clip),  # type: ignore[arg-type]
        make_video(
            folder / "clip.mov",
            codec="mjpeg",
            pixel_format="yuvj420p",
            sound_codec="pcm_s16le",
            **clip,  # type: ignore[arg-type]
        ),
        make_video(folder / "clip.ts", sound_codec="mp2", sound_rate=48000, **clip),  # type: ignore[arg-type]
        make_sound(folder / "sound.wav", **sound),  # type: ignore[arg-type]
        make_sound(folder / "sound.flac", codec="flac", **sound),  # type: ignore[arg-type]
        make_sound(folder / "sound.mp3", codec="mp3", **sound),  # type: ignore[arg-type]
        make_sound(folder / "sound.ogg", codec="libopus", sample_rate=48000, **sound),  # type: ignore[arg-type]
        make_sound(folder / "sound.m4a", codec="aac", **sound),  # type: ignore[arg-type]
    ]
    noise = np.random.default_rng(5).integers(0, 256, (*_PIXELS, 3), dtype=np.uint8)
    for name in ("picture.jpg", "picture.png", "picture.gif", "picture.webp", "picture.tiff", "picture.bmp"):
        Image.fromarray(noise).save(folder / name)
        paths.append(folder / name)
    return {path.name: path.read_bytes() for path in paths}


def mutants(originals: dict[str, bytes], count: int, *, seed: int = 0) -> list[Mutant]:
    """`count` files, always the same for a seed; each kind of file and of mutation comes about as often."""
    found = []
    names = sorted(originals)
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        name = names[number % len(names)]
        content, done = originals[name], []
        for mutate in rng.choices(list(_MUTATIONS), weights=list(_MUTATIONS.values()), k=rng.choice((1, 1, 1, 2))):
            content = mutate(content, rng)
            done.append(mutate.__name__.strip("_"))
        suffix = Path(name).suffix
        if rng.random() < 0.15:
            suffix = rng.choice([Path(each).suffix for each in names])
            done.append(f"named {suffix}")
        found.append(Mutant(name=f"{number:04d}{suffix}", content=content, what=f"{name}: {', '.join(done)}"))
    return found


def _flipped_bits(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 5, 50)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flipped_header(content: bytes, rng: random.Random) -> bytes:
    head = len(content[:256])
    return _flipped_bits(content[:head], rng) + content[head:]


def _flipped_body(content: bytes, rng: random.Random) -> bytes:
    head = len(content) // 3
    return content[:head] + _flipped_bits(content[head:], rng)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: int(len(content) * rng.random())]


def _without_beginning(content: bytes, rng: random.Random) -> bytes:
    return content[rng.choice((1, 4, 8, 32, 200, len(content) // 2)) :]


def _cut_header(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(64)]


def _swapped_blocks(content: bytes, rng: random.Random) -> bytes:
    size = max(1, len(content) // 8)
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    first = blocks[:1] if rng.random() < 0.7 else []
    rest = blocks[len(first) :]
    rng.shuffle(rest)
    return b"".join(first + rest)


def _zeros(content: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(content) + 1), rng.choice((4, 100, 5000))
    return content[:at] + bytes(len(content[at : at + size])) + content[at + size :]


def _nothing(content: bytes, rng: random.Random) -> bytes:
    return b"" if rng.random() < 0.5 else bytes(len(content))


def _noise_inside(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.choice((1, 16, 2000))) + content[at:]


def _doubled(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[at:] + content


# What says in its first bytes how large something is: boxes of mp4, chunks of RIFF and PNG, blocks of FLAC and Ogg.
_NAMED = re.compile(rb"moov|mvhd|trak|mdat|stsz|stts|stsc|stco|elst|avcC|RIFF|fmt |data|IHDR|IDAT|fLaC|OggS|LIST|moof")


def _huge_sizes(content: bytes, rng: random.Random) -> bytes:
    """Sizes, counts and dimensions as large as they can be written, near a name that they belong to."""
    places = [match.start() for match in _NAMED.finditer(content)] or [rng.randrange(len(content) + 1)]
    at = max(0, rng.choice(places) + rng.choice((-4, 4, 8, 12, 16)))
    huge = rng.choice(
        (b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x01", b"\x7f" + b"\xff" * 7)
    )
    return content[:at] + huge + content[at + len(huge) :]


# How often each happens. Most files keep a beginning that a decoder takes for good, and fail later if at all.
_MUTATIONS: dict[Callable[[bytes, random.Random], bytes], int] = {
    _flipped_bits: 4,
    _flipped_body: 6,
    _flipped_header: 2,
    _cut: 3,
    _without_beginning: 1,
    _cut_header: 1,
    _swapped_blocks: 3,
    _zeros: 3,
    _nothing: 1,
    _noise_inside: 3,
    _doubled: 2,
    _huge_sizes: 6,
}
