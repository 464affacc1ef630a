"""What the JSON API takes and gives. Every field is described, for the OpenAPI description is the API's manual."""

import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from lookhear.search.export import Format
from lookhear.search.library import LIKENESS

Seconds = Annotated[float, Field(ge=-1e6, le=1e7, allow_inf_nan=False)]
FileId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32,64}$")]
ExampleId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
# Texts become parts of patterns and paths, in which there is no NUL.
Text = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")]
Kind = Literal["ok", "sound_only", "picture_only", "partial"]
# Each further page is a longer search, in time and memory.
MAX_PAGE, MAX_LISTED = 100, 5_000
AnyStatus = Literal["ok", "sound_only", "picture_only", "partial", "refused", "waiting"]
Use = Literal["both", "sound", "picture"]


class Value(BaseModel):
    """Unknown fields are refused: a misspelt filter must not be no filter."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Value):
    """Why a request was not answered."""

    error: str = Field(description="one sentence: what is wrong, why, and what to do next")


class UploadedExample(Value):
    """An example that was uploaded."""

    kind: Literal["upload"]
    id: ExampleId = Field(description="as POST /api/uploads gave it")
    use: Use = Field(default="both", description="which of its modalities is the example")


class MomentExample(Value):
    """An example that is a moment of an indexed file; its stored vectors are used."""

    kind: Literal["moment"]
    file_id: FileId
    start_seconds: Seconds = Field(description="on the file's clock")
    end_seconds: Seconds | None = Field(default=None, description="None: the moment around start_seconds")
    use: Use = Field(default="both", description="which of its modalities is the example")


Example = Annotated[UploadedExample | MomentExample, Field(discriminator="kind")]


class Filters(Value):
    """Which files are searched. Scores do not change."""

    folder: Text | None = Field(default=None, description="in this folder or below it; one that GET /api/folders lists")
    name: Text | None = Field(default=None, description="named so; * and ? stand for any letters")
    after: datetime.date | None = Field(default=None, description="last changed on this day or later")
    before: datetime.date | None = Field(default=None, description="last changed before this day")
    longer_seconds: float | None = Field(default=None, ge=0, le=1e7, allow_inf_nan=False)
    shorter_seconds: float | None = Field(default=None, ge=0, le=1e7, allow_inf_nan=False)
    status: tuple[Kind, ...] = Field(
        default=(), max_length=4, description="ok: sound and picture; none: files of all kinds"
    )
    label: Text | None = Field(
        default=None, description="only moments to which the classifier of `lookhear label` gave this label"
    )


class Search(Value):
    """A question: by examples, or by a label alone (`filters.label`, neither examples nor counter-examples)."""

    examples: tuple[Example, ...] = Field(
        default=(), max_length=16, description="none: moments with filters.label, the most probable first"
    )
    counter_examples: tuple[Example, ...] = Field(
        default=(), max_length=16, description="what is more like one of these than like the examples is no hit"
    )
    within: Literal["both", "sound", "picture"] = Field(default="both", description="what of the library is compared")
    balance: float = Field(default=0.5, ge=0, le=1, description="where both are: 1 is sound only, 0 is picture only")
    likeness: float = Field(
        default=LIKENESS,
        ge=0,
        le=1,
        description="sound with sound, picture with picture: 1 finds this very shot, 0 what the model takes for it",
    )
    filters: Filters = Filters()
    at_least: float | None = Field(
        default=None, ge=0, le=1000, allow_inf_nan=False, description="hits that score less are left out"
    )
    page: int = Field(default=1, ge=1, le=MAX_PAGE, description=f"only the best {MAX_LISTED:,} hits are listed")
    page_size: int = Field(default=24, ge=1, le=100)

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not self.examples and (self.counter_examples or not self.filters.label):
            raise ValueError("give one of the examples at least, or filters.label alone, without counter_examples")
        if self.page * self.page_size > MAX_LISTED:
            raise ValueError(f"only the best {MAX_LISTED:,} hits are listed; narrow the search with filters")
        return self

    @property
    def is_last_page(self) -> bool:
        """Whether no further page may be asked for."""
        return self.page == MAX_PAGE or (self.page + 1) * self.page_size > MAX_LISTED


class HitReference(Value):
    """A hit as far as another program needs it: of a search, or put together by hand."""

    file_id: FileId
    start_seconds: Seconds
    end_seconds: Seconds
    peak_seconds: Seconds
    score: float = Field(default=0.0, ge=-1e6, le=1e6, allow_inf_nan=False)
    cosine: float = Field(default=0.0, ge=-1, le=1, allow_inf_nan=False)
    matched: Literal["both", "sound", "picture"] = "both"


class SearchHit(Value):
    """A moment of the library that matches."""

    file_id: str
    path: str = Field(description="bytes that are no UTF-8 are shown as question marks; file_id names the file")
    name: str
    folder: str = Field(description="inside its library")
    library: str
    start_seconds: float = Field(description="on the file's clock, as all times")
    end_seconds: float
    peak_seconds: float = Field(description="the middle of what matches best")
    score: float = Field(
        description="-log10 of how often a random pair of the library matches as well, up to 5; beyond, which matches "
        "better, below 8; by a label alone, the probability of the label"
    )
    cosine: float
    matched: Literal["both", "sound", "picture"] = Field(description="what of the library matched")
    status: str = Field(description="ok, sound_only, picture_only or partial")
    seconds: float = Field(description="length of the file")
    copies: tuple[str, ...] = Field(description="other files with the very same bytes")
    labels: tuple[str, ...] = Field(description="of `lookhear label`, the most probable first")


class Found(Value):
    """One page of hits, best first."""

    hits: tuple[SearchHit, ...]
    page: int
    has_more: bool
    best_score: float | None = Field(description="of all hits of page 1, before at_least; None: nothing to compare")
    chance_score: float | None = Field(
        description="what the best hit of pure chance has about, in so many moments; "
        "None by a label alone, where scores are probabilities"
    )
    notes: tuple[str, ...] = Field(description="what was left out of an example")
    took_seconds: float


class Upload(Value):
    """An example that was read. Its file is gone already; its vectors are kept for a while."""

    id: str
    name: str
    kind: Literal["sound", "picture", "clip"]
    seconds: float = Field(description="0 for a picture")
    has_sound: bool
    has_picture: bool
    peaks: tuple[float, ...] = Field(description="how loud it is from beginning to end, 0 to 1; none without sound")
    note: str = Field(description="what was left out of it")


class Limits(Value):
    """What the server takes."""

    max_upload_bytes: int
    max_query_seconds: float
    preview_seconds: float
    max_cut_clips: int
    max_cut_seconds: float
    max_cut_bytes: int


class Status(Value):
    """What the index holds."""

    lookhear: str = Field(description="the version of this program")
    generation: str = Field(description="another one after every change of the index")
    model: str
    fingerprint: str
    window_seconds: float
    hop_seconds: float
    libraries: tuple[str, ...]
    counts: dict[str, int] = Field(description="of files, by status")
    files: int
    seconds: float = Field(description="of media; refused files are left out")
    moments: int
    formats: tuple[str, ...] = Field(description="for POST /api/export")
    limits: Limits


class FileRow(Value):
    """A file of the library, whatever became of it."""

    file_id: str | None = Field(description="None where it cannot be played or searched by")
    library: str
    path: str = Field(description="inside its library")
    status: AnyStatus
    reason: str = Field(description="why it was skipped, or what is missing of it")
    seconds: float
    moments: int
    size_bytes: int
    modified: float = Field(description="seconds since 1970")


class FilePage(Value):
    """Some of the files that were asked for."""

    rows: tuple[FileRow, ...]
    total: int
    offset: int
    generation: str


class Folder(Value):
    """A folder below which there are files."""

    path: str
    files: int


class Label(Value):
    """What a classifier heard or saw."""

    name: str
    moments: int = Field(description="stretches with it; files with the very same bytes share theirs")


class PictureTrack(Value):
    """The picture of a file."""

    codec: str
    width: int
    height: int
    frames_per_second: float


class SoundTrack(Value):
    """The sound of a file."""

    codec: str
    sample_rate: int
    channels: int


class FileAbout(Value):
    """One file, as it is now."""

    row: FileRow
    copies: tuple[str, ...]
    start_seconds: float
    end_seconds: float
    picture: PictureTrack | None
    sound: SoundTrack | None
    plays: Literal["directly", "as preview"] = Field(
        description="whether browsers can be expected to play the file itself, or only a preview of each part of it"
    )
    problems: tuple[str, ...]


class FromSearch(Value):
    """The first hits of a search."""

    kind: Literal["search"]
    search: Search = Field(description="its page and page_size are not looked at")
    top: int = Field(default=100, ge=1, le=1000)


class FromHits(Value):
    """These hits."""

    kind: Literal["hits"]
    hits: tuple[HitReference, ...] = Field(min_length=1, max_length=1000)


Chosen = Annotated[FromSearch | FromHits, Field(discriminator="kind")]


class Export(Value):
    """Hits for another program."""

    format: Format
    chosen: Chosen


class Cut(Value):
    """Hits as clips."""

    chosen: Chosen
    exact: bool = Field(
        default=False, description="encode anew, so that each clip begins exactly where its moment does"
    )


class Sheet(Value):
    """Hits as one picture."""

    chosen: Chosen
