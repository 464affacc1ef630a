"""How well an archive finds its own moments: a piece of each file is cut out, encoded again, and searched for.

Pieces need no labels: the truth is where they come from. They lie around events where a truth says when these are (made
scenes), at random places elsewhere. Each piece asks several questions, of the same kind (its sound among the sounds,
one of its frames among the pictures) and across (its sound among the pictures, its pictures among the sounds). A piece
is found by a hit in its own file whose peak lies within `TOLERANCE_SECONDS` of the piece's middle; for pieces, not for
single frames, also how well hit and piece overlap in time is judged (temporal IoU).

Beside the model: the same model with weights that were drawn and never trained; within a kind what the model's vectors
find alone, and the plain descriptions that an index keeps beside them (`likeness.py`), and plain features of another
make; and across kinds the same model with one frame a window instead of all of them, and, when a still is the question,
the best of several stills of the piece. Chance is what a draw among all moments of the library would find.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from lookhear.data.vectors import Part
from lookhear.embedder import Embedder, untrained
from lookhear.errors import MediaError, UserError
from lookhear.media.decode import read_clip
from lookhear.media.encode import write_sound, write_video
from lookhear.media.probe import find_media
from lookhear.progress import Progress, quiet
from lookhear.search.crawl import index
from lookhear.search.examples import Request
from lookhear.search.index import Index
from lookhear.search.library import LIKENESS
from lookhear.search.query import Hit
from lookhear.tasks.matching.ridge import mean_log_mel
from lookhear.tasks.metrics import bootstrap_interval

PIECE_SECONDS = 2.0
TOLERANCE_SECONDS = 1.0
LEAST_IOU = 0.5
TOP = 10
_STILLS = 5  # of a piece, evenly spread
_STILL_SCALE, _STILL_QUALITY = 0.5, 40  # of the still that is searched for: half as wide, a JPEG of poor quality
_VIDEO_RATE = 25.0  # frames a second of a piece that is encoded again
_THUMBNAIL = 16
# Frames whose thumbnails differ by less on average (in levels of 255) show nothing that tells them apart.
_SAME_PICTURE = 6.0

Question = Literal["sound_to_sound", "frame_to_picture", "sound_to_picture", "picture_to_sound", "frame_to_sound"]
QUESTIONS: tuple[Question, ...] = (
    "sound_to_sound",
    "frame_to_picture",
    "sound_to_picture",
    "picture_to_sound",
    "frame_to_sound",
)
_WITHIN_A_KIND: tuple[Question, ...] = ("sound_to_sound", "frame_to_picture")
Method = Literal["model", "meaning", "looks", "untrained", "plain", "one_frame", "best_still"]
# What one half of the vectors finds alone, by how much likeness counts.
_HALVES: dict[Method, float] = {"meaning": 0.0, "looks": 1.0}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Two seconds of a file, written as files of their own: what there was of sound and picture."""

    source: Path
    start_seconds: float
    sound: Path | None
    video: Path | None  # silent
    stills: tuple[Path, ...]  # the middle one is the frame that is searched for
    telling: bool  # no other moment of the file looks like the middle frame

    @property
    def middle_seconds(self) -> float:
        """The middle of the piece, on the file's clock."""
        return self.start_seconds + PIECE_SECONDS / 2


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Where one search says that a piece lies, best first, at most `TOP`."""

    hits: tuple[Hit, ...]

    def rank(self, right: Callable[[Hit], bool]) -> int | None:
        """The place, from 0, of the first hit that is right."""
        return next((place for place, hit in enumerate(self.hits) if right(hit)), None)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Shares of the pieces that one method found; intervals are 95 %, over files."""

    pieces: int
    files: int
    moment_r1: float
    moment_r1_ci95: tuple[float, float]
    moment_r10: float
    file_r1: float
    iou_r1: float | None  # hit and piece overlap by LEAST_IOU at least; None where the question is a single frame
    iou_r10: float | None
    telling_r1: float | None  # moment_r1 of the pieces whose frame is unlike the rest of its file; stills only


@dataclass(frozen=True, kw_only=True)
class SearchQuality:
    """What `evaluate_search` found."""

    figures: dict[Question, dict[Method, Figures]]
    chance: dict[str, float]  # of a draw among all moments: moment_r1, moment_r10, file_r1
    protocol: dict[str, Any]
    left_out: tuple[str, ...]  # files without a piece, and why


# ---- pieces


def draw_pieces(
    folder: Path,
    scratch: Path,
    *,
    per_file: int,
    seed: int = 0,
    events: dict[str, Sequence[float]] | None = None,
    progress: Progress = quiet,
) -> tuple[list[Piece], list[str]]:
    """`per_file` pieces of each file of `folder` that lasts long enough, and what was left out.

    `events` says for each relative path when something happens: pieces then begin up to half their length before an
    event. Raises UserError where no file gives a piece.
    """
    rng = random.Random(seed)
    pieces: list[Piece] = []
    left_out = []
    found = list(find_media(folder))
    for done, each in enumerate(found):
        progress(done, len(found))
        if each.problem:
            left_out.append(f"{each.relative}: {each.problem}")
            continue
        try:
            clip = read_clip(each.path, frames_per_second=4.0, short_side=_THUMBNAIL * 4)
        except MediaError as error:
            left_out.append(f"{each.relative}: {error.reason}")
            continue
        last = clip.end_seconds - PIECE_SECONDS
        if last < clip.start_seconds:
            left_out.append(f"{each.relative}: shorter than {PIECE_SECONDS:g} s")
            continue
        for _ in range(per_file):
            start = rng.uniform(clip.start_seconds, last)
            if events is not None and events.get(each.relative):
                when = rng.choice(list(events[each.relative]))
                start = min(max(when - rng.uniform(0.0, PIECE_SECONDS / 2), clip.start_seconds), last)
            telling = clip.frames is not None and _is_telling(
                clip.frames, clip.frame_seconds, start + PIECE_SECONDS / 2
            )
            pieces.append(_write_piece(each.path, start, scratch / f"{len(pieces):05d}", telling=telling))
    progress(len(found), len(found))
    if not pieces:
        raise UserError(f"no file of {folder} gives a piece of {PIECE_SECONDS:g} s ({'; '.join(left_out[:3])})")
    return pieces, left_out


def _write_piece(source: Path, start: float, stem: Path, *, telling: bool) -> Piece:
    end = start + PIECE_SECONDS
    times = np.arange(start + 1e-3, end, 1 / _VIDEO_RATE)
    clip = read_clip(source, start_seconds=start, end_seconds=end, frame_seconds=times)
    sound = video = None
    stills: list[Path] = []
    if clip.waveform is not None and len(clip.waveform):
        sound = stem.with_suffix(".m4a")
        write_sound(sound, clip.waveform, clip.sample_rate)
    if clip.frames is not None and len(clip.frames):
        height, width = (side - side % 2 for side in clip.frames.shape[2:])
        pictures = clip.frames[:, :, :height, :width].transpose(0, 2, 3, 1)
        video = stem.with_suffix(".mp4")
        write_video(video, frames=pictures, frames_per_second=_VIDEO_RATE, waveform=None, crf=28)
        for number, place in enumerate(np.linspace(0, len(pictures) - 1, _STILLS).round().astype(int)):
            path = stem.with_name(f"{stem.name}-{number}.jpg")
            small = (max(2, int(width * _STILL_SCALE)), max(2, int(height * _STILL_SCALE)))
            Image.fromarray(pictures[place]).resize(small, Image.Resampling.BICUBIC).save(path, quality=_STILL_QUALITY)
            stills.append(path)
    return Piece(source=source, start_seconds=start, sound=sound, video=video, stills=tuple(stills), telling=telling)


def _is_telling(frames: np.ndarray, seconds: np.ndarray, middle: float) -> bool:
    """Whether no frame further away than the tolerance looks like the one at `middle`."""
    thumbnails = _thumbnails(frames)
    own = int(np.abs(seconds - middle).argmin())
    far = np.abs(seconds - middle) > TOLERANCE_SECONDS
    return bool((np.abs(thumbnails[far] - thumbnails[own]).mean(axis=1) > _SAME_PICTURE).all())


def _thumbnails(frames: np.ndarray) -> np.ndarray:
    """uint8 (T, 3, H, W) to float32 (T, 3 x 16 x 16), in levels of 255."""
    small = torch.nn.functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(frames)).float(), size=(_THUMBNAIL, _THUMBNAIL), mode="area"
    )
    return small.flatten(1).numpy()


# ---- methods


class OneFrame(Embedder):
    """A model of several frames a window that is shown only the middle one, as a still."""

    @classmethod
    def of(cls, model: Embedder) -> "OneFrame":
        """The same weights."""
        return cls(
            model.model,
            model.preprocess,
            config=model.config,
            fingerprint=f"one frame of {model.fingerprint}",
            device=str(model.device),
            dtype=model.dtype_name,
        )

    def _embed_frames(self, frames: torch.Tensor, part: Part = "embedding") -> np.ndarray:
        count = self.preprocess.config.frames_per_window
        middle = frames[:, 3 * (count // 2) : 3 * (count // 2) + 3]
        return super()._embed_frames(middle.repeat(1, count, 1, 1), part)


class _Searched:
    """An index of the folder, of which pieces ask; what a piece shows is encoded once."""

    def __init__(self, place: Path, embedder: Embedder) -> None:
        self.index = Index(place, model=embedder)
        self._requests: dict[Path, Request] = {}

    def ask(
        self, question: Question, piece: Piece, *, still: int = _STILLS // 2, likeness: float = LIKENESS
    ) -> Answer | None:
        """None where the piece cannot ask this."""
        sound = piece.sound if question.startswith("sound") else None
        clip = piece.video if question.startswith("picture") else None
        picture = piece.stills[still] if question.startswith("frame") and piece.stills else None
        path = sound or clip or picture
        if path is None:
            return None
        if path not in self._requests:
            self._requests[path] = self.index.request(sound=sound, clip=clip, picture=picture)
        within: Literal["sound", "picture"] = "sound" if question.endswith("sound") else "picture"
        return Answer(hits=tuple(self.index.find(self._requests[path], within=within, likeness=likeness, top=TOP)))


class _Plain:
    """Windows of two seconds by their mean log-mel, or frames by their thumbnails, compared by cosine."""

    def __init__(self, folder: Path, hop_seconds: float) -> None:
        sounds, sound_places, pictures, picture_places = [], [], [], []
        for each in find_media(folder):
            if each.problem:
                continue
            try:
                clip = read_clip(each.path, frames_per_second=1 / hop_seconds, short_side=_THUMBNAIL * 4)
            except MediaError:
                continue
            if clip.waveform is not None:
                size, hop = int(PIECE_SECONDS * clip.sample_rate), int(hop_seconds * clip.sample_rate)
                for first in range(0, max(len(clip.waveform) - size, 0) + 1, hop):
                    sounds.append(mean_log_mel(clip.waveform[first : first + size]))
                    sound_places.append((each.path, clip.start_seconds + first / clip.sample_rate))
            if clip.frames is not None:
                pictures += list(_thumbnails(clip.frames))
                picture_places += [(each.path, float(when) - PIECE_SECONDS / 2) for when in clip.frame_seconds]
        self.tables = {"sound": (_unit(sounds), sound_places), "picture": (_unit(pictures), picture_places)}

    def ask(self, question: Question, piece: Piece) -> Answer | None:
        """Only of questions whose two sides are of one kind."""
        if question == "sound_to_sound" and piece.sound is not None:
            waveform = read_clip(piece.sound).waveform
            assert waveform is not None
            return self._nearest("sound", mean_log_mel(waveform))
        if question == "frame_to_picture" and piece.stills:
            picture = np.asarray(Image.open(piece.stills[_STILLS // 2]).convert("RGB")).transpose(2, 0, 1)
            return self._nearest("picture", _thumbnails(picture[None])[0])
        return None

    def _nearest(self, kind: Literal["sound", "picture"], vector: np.ndarray) -> Answer:
        table, places = self.tables[kind]
        cosines = table @ _unit([vector])[0]
        hits: list[Hit] = []
        for row in np.argsort(-cosines, kind="stable"):
            path, start = places[row]
            if any(hit.path == str(path) and abs(hit.start_seconds - start) < PIECE_SECONDS for hit in hits):
                continue  # neighbours of a hit are the same moment, as in a search
            hits.append(
                Hit(
                    path=str(path),
                    start_seconds=start,
                    end_seconds=start + PIECE_SECONDS,
                    peak_seconds=start + PIECE_SECONDS / 2,
                    score=float(cosines[row]),
                    cosine=float(cosines[row]),
                    matched=kind,
                    status="ok",
                )
            )
            if len(hits) == TOP:
                break
        return Answer(hits=tuple(hits))


def _unit(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """float32 (n, D): centred within each vector, so that brightness and loudness say nothing, and of unit length."""
    if not len(vectors):
        return np.zeros((0, 1), np.float32)
    table = np.stack(vectors).astype(np.float32)
    table = table - table.mean(axis=1, keepdims=True)
    return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-6)


# ---- figures


def evaluate_search(
    model: Embedder,
    folder: Path,
    *,
    scratch: Path,
    per_file: int = 10,
    hop_seconds: float | None = None,
    seed: int = 0,
    events: dict[str, Sequence[float]] | None = None,
    baselines: bool = True,
    workers: int = 2,
    progress: Progress = quiet,
) -> SearchQuality:
    """Pieces of the files of `folder` searched for in an index of it; `scratch` takes pieces and indices.

    See the module for the questions, methods and figures. Raises UserError where no file gives a piece.
    """
    pieces, left_out = draw_pieces(folder, scratch, per_file=per_file, seed=seed, events=events, progress=progress)
    answers: dict[Question, dict[Method, list[Answer | None]]] = {question: {} for question in QUESTIONS}
    chance: dict[str, float] = {}

    def search(name: Method, embedder: Embedder, questions: Sequence[Question]) -> _Searched:
        place = scratch / f"{name}.index"
        index([folder], model=embedder, index_path=place, hop_seconds=hop_seconds, workers=workers, progress=progress)
        library = _Searched(place, embedder)
        for question in questions:
            answers[question][name] = [library.ask(question, piece) for piece in pieces]
        return library

    library = search("model", model, QUESTIONS)
    chance = _chance(library.index, pieces)
    if baselines:
        search("untrained", untrained(model), QUESTIONS)
        search("one_frame", OneFrame.of(model), ("sound_to_picture", "picture_to_sound"))
        plain = _Plain(folder, library.index.facts.hop_seconds)
        for question in _WITHIN_A_KIND:
            answers[question]["plain"] = [plain.ask(question, piece) for piece in pieces]
            for half, likeness in _HALVES.items():
                answers[question][half] = [library.ask(question, piece, likeness=likeness) for piece in pieces]
        answers["frame_to_sound"]["best_still"] = [_best_still(library, piece) for piece in pieces]
    figures = {
        question: {name: found for name, given in by_method.items() if (found := _judge(question, pieces, given))}
        for question, by_method in answers.items()
    }
    protocol = {
        "pieces_per_file": per_file,
        "piece_seconds": PIECE_SECONDS,
        "tolerance_seconds": TOLERANCE_SECONDS,
        "least_iou": LEAST_IOU,
        "hop_seconds": library.index.facts.hop_seconds,
        "window_seconds": library.index.facts.window_seconds,
        "moments": len(library.index.library()),
        "around_events": events is not None,
        "seed": seed,
        "model": model.fingerprint,
    }
    return SearchQuality(figures=figures, chance=chance, protocol=protocol, left_out=tuple(left_out))


def _best_still(library: _Searched, piece: Piece) -> Answer | None:
    """The answer to that still of the piece which finds it earliest: nobody knows beforehand which one it is."""
    given = [library.ask("frame_to_sound", piece, still=still) for still in range(len(piece.stills))]
    asked = [answer for answer in given if answer is not None]
    return min(asked, key=lambda answer: _or_last(answer.rank(partial(_is_moment, piece=piece))), default=None)


def _judge(question: Question, pieces: Sequence[Piece], answers: Sequence[Answer | None]) -> Figures | None:
    """None where no piece could ask."""
    asked = [(piece, answer) for piece, answer in zip(pieces, answers, strict=True) if answer is not None]
    if not asked:
        return None
    moment, file, overlap = (
        np.array([_or_last(answer.rank(partial(right, piece=piece))) for piece, answer in asked])
        for right in (_is_moment, _is_file, _overlaps)
    )
    sources = np.array([str(piece.source) for piece, _ in asked])
    by_file = [float((moment[sources == source] == 0).mean()) for source in np.unique(sources)]
    still = question.startswith("frame")
    telling = np.array([piece.telling for piece, _ in asked])
    return Figures(
        pieces=len(asked),
        files=len(by_file),
        moment_r1=_share(moment == 0),
        moment_r1_ci95=bootstrap_interval(by_file),
        moment_r10=_share(moment < TOP),
        file_r1=_share(file == 0),
        iou_r1=None if still else _share(overlap == 0),
        iou_r10=None if still else _share(overlap < TOP),
        telling_r1=_share(moment[telling] == 0) if still and telling.any() else None,
    )


def _chance(library: Index, pieces: Sequence[Piece]) -> dict[str, float]:
    """What draws among all moments of the library would find: the mean over pieces."""
    held = library.library()
    middle = (held.start_seconds + held.end_seconds) / 2
    files = [Path(file.path) for file in held.files]
    one, ten, file_one = [], [], []
    for piece in pieces:
        own = np.array([file.name == piece.source.name and file.samefile(piece.source) for file in files])
        mine = own[held.file_rank]
        right = int((mine & (np.abs(middle - piece.middle_seconds) <= TOLERANCE_SECONDS)).sum())
        one.append(right / len(held))
        ten.append(1.0 - float(np.prod([1 - right / (len(held) - drawn) for drawn in range(min(TOP, len(held)))])))
        file_one.append(float(mine.mean()))
    return {"moment_r1": float(np.mean(one)), "moment_r10": float(np.mean(ten)), "file_r1": float(np.mean(file_one))}


def _is_file(hit: Hit, piece: Piece) -> bool:
    return any(
        Path(path).name == piece.source.name and Path(path).samefile(piece.source) for path in (hit.path, *hit.copies)
    )


def _is_moment(hit: Hit, piece: Piece) -> bool:
    return _is_file(hit, piece) and abs(hit.peak_seconds - piece.middle_seconds) <= TOLERANCE_SECONDS


def _overlaps(hit: Hit, piece: Piece) -> bool:
    """Whether hit and piece lie in one file, and by how much in time."""
    end = piece.start_seconds + PIECE_SECONDS
    both = min(hit.end_seconds, end) - max(hit.start_seconds, piece.start_seconds)
    whole = max(hit.end_seconds, end) - min(hit.start_seconds, piece.start_seconds)
    return _is_file(hit, piece) and both / whole >= LEAST_IOU


def _or_last(rank: int | None) -> int:
    return TOP if rank is None else rank


def _share(found: np.ndarray) -> float:
    return float(np.mean(found))
