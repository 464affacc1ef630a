"""The rows of the study of methods: small recipes with what they share made equal, and the claims about them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lookhear.errors import ConfigError
from lookhear.study.cavmae import CAV_MAE, SYNC
from lookhear.study.cavmae import rows_like as cavmae_rows_like
from lookhear.study.claims import Claim

if TYPE_CHECKING:
    from lookhear.recipes.skimming import SkimRun
    from lookhear.training.run import Run

NOT_TRAINED = "not trained"
END_TO_END, MEMORY_BANK, MOCO = "end to end", "memory bank", "MoCo"
AVID_SELF, AVID_CROSS, AVID_JOINT, CMA = "AVID self", "AVID cross", "AVID joint", "CMA"
SSCL_FIRST, SSCL_BOTH = "SSCL, stage I alone", "SSCL, stages I and II"
SOUND_TEACHER, PICTURE_TEACHER = "teacher of sounds", "teacher of pictures"
LABELS_ALONE = "clips, labels alone"  # CCL without teachers, and the clip teacher of Listen to Look
CCL_SOUND, CCL_PICTURE, CCL_BOTH = "CCL, sounds teach", "CCL, pictures teach", "CCL, both teach"
PLAIN = "plain distillation, both teach"
STUDENT, STAGES = "Listen to Look, student", "student, stages matched too"
SKIMMED, ONE_QUERY, EVENLY = "skimming, recurrent", "skimming, one query", "evenly spaced moments"

NAMED = "its own head"
CHANCE_NAMED = "chance of naming"
CLIPS = 16  # in a step
PAIR_WINDOWS = 2  # of each clip in a step, of methods that compare sound with three pictures
NAMED_WINDOWS = 1  # of those that learn or are taught names, from eight pictures
NEGATIVES = 256


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One row of the table."""

    run: "Run"
    claimed: bool = False  # whether a claim is about it, so that it is trained from several seeds
    taught_by: Mapping[str, str] = field(default_factory=dict)  # settings that name teachers -> rows


def method_rows(*, epochs: int, clips: int, classes: Sequence[str]) -> dict[str, MethodRow]:
    """Every row, for `epochs` over `clips` clips with labels of `classes`; teachers before those whom they teach.

    Raises ConfigError for epochs that the four phases of SSCL cannot share, and fewer clips than a step has.
    """
    if epochs < 4 or epochs % 4:
        raise ConfigError(f"epochs is {epochs}; the four phases of SSCL share them, so take a multiple of 4")
    rows = _named_rows(classes) | _pair_rows(epochs, clips)
    if clips < CLIPS:
        raise ConfigError(f"there are {clips} scenes to learn from and a step has {CLIPS}; make more of them")
    return {name: dataclasses.replace(row, run=_study_run(name, row.run, epochs)) for name, row in rows.items()}


def _study_run(name: str, run: "Run", epochs: int) -> "Run":
    if name == NOT_TRAINED:
        optim = dataclasses.replace(run.optim, learning_rate=0.0)
        return dataclasses.replace(run, name="study", optim=optim, steps=1, keep_checkpoints=1)
    return dataclasses.replace(run, name="study", epochs=epochs, keep_checkpoints=1)


def _pair_rows(epochs: int, clips: int) -> dict[str, MethodRow]:
    """Methods that learn from pairs of sound and picture, without labels."""
    from lookhear.recipes import methods_small as small
    from lookhear.recipes.tiny import tiny

    sync = _windows(tiny(), PAIR_WINDOWS)
    cavmae = cavmae_rows_like(sync, audio_frames=sync.preprocess.audio_frames)
    sscl = _with_bank(small.sscl_small(), clips)
    half, quarter = epochs // 2, epochs // 4
    agreement = dataclasses.replace(
        small.cma_small().objective.keys.agreement, warmup_epochs=half, count=min(8, clips // 8)
    )
    runs: dict[str, Any] = {
        NOT_TRAINED: small.end_to_end_small(),
        END_TO_END: small.end_to_end_small(),
        MEMORY_BANK: _with_bank(small.memory_bank_small(), clips),
        MOCO: small.moco_small(),
        AVID_SELF: _with_bank(small.avid_self_small(), clips),
        AVID_CROSS: _with_bank(small.avid_cross_small(), clips),
        AVID_JOINT: _with_bank(small.avid_joint_small(), clips),
        CMA: _with_bank(small.cma_small(), clips, agreement=agreement),
        SSCL_FIRST: _with_phases(sscl, (half, half, 0, 0)),
        SSCL_BOTH: _with_phases(sscl, (quarter,) * 4),
        CAV_MAE: cavmae[CAV_MAE],
        SYNC: cavmae[SYNC],
    }
    claimed = {NOT_TRAINED, AVID_SELF, AVID_CROSS, SSCL_FIRST, SSCL_BOTH}
    return {name: MethodRow(run=_windows(run, PAIR_WINDOWS), claimed=name in claimed) for name, run in runs.items()}


def _named_rows(classes: Sequence[str]) -> dict[str, MethodRow]:
    """Networks that learn labels, or what a teacher says of them."""
    from lookhear.recipes import distilled_small as small

    ccl = small.ccl_small()
    both = {"objective.audio_teacher": SOUND_TEACHER, "objective.image_teacher": PICTURE_TEACHER}
    taught = {"objective.teacher": LABELS_ALONE}

    def by(teachers: str, **changes: Any) -> "Run":
        return dataclasses.replace(ccl, objective=dataclasses.replace(ccl.objective, teachers=teachers, **changes))

    rows = {
        SOUND_TEACHER: MethodRow(run=small.audio_teacher_small(), claimed=True),
        PICTURE_TEACHER: MethodRow(run=small.image_teacher_small(), claimed=True),
        LABELS_ALONE: MethodRow(run=by("none"), claimed=True),
        STUDENT: MethodRow(run=small.listen_to_look_small(), claimed=True, taught_by=taught),
        CCL_BOTH: MethodRow(run=by("both"), claimed=True, taught_by=both),
        PLAIN: MethodRow(run=by("both", composed=False), claimed=True, taught_by=both),
        CCL_SOUND: MethodRow(run=by("audio"), taught_by=dict(list(both.items())[:1])),
        CCL_PICTURE: MethodRow(run=by("image"), taught_by=dict(list(both.items())[1:])),
        STAGES: MethodRow(run=small.distil_stages_small(), taught_by=taught),
    }
    return {
        name: dataclasses.replace(row, run=_with_classes(_windows(row.run, NAMED_WINDOWS), classes))
        for name, row in rows.items()
    }


def _windows(run: "Run", count: int) -> "Run":
    return dataclasses.replace(run, data=dataclasses.replace(run.data, batch_size=CLIPS, windows_per_clip=count))


def _with_bank(run: "Run", clips: int, **changes: Any) -> "Run":
    """The run with at most half of the clips as negatives."""
    keys = dataclasses.replace(run.objective.keys, num_negatives=min(NEGATIVES, clips // 2), **changes)
    return dataclasses.replace(run, objective=dataclasses.replace(run.objective, keys=keys))


def _with_phases(run: "Run", phase_epochs: tuple[int, ...]) -> "Run":
    return dataclasses.replace(run, objective=dataclasses.replace(run.objective, phase_epochs=phase_epochs))


def _with_classes(run: "Run", classes: Sequence[str]) -> "Run":
    objective = run.objective
    if getattr(objective, "loss", None) == "auto":
        objective = dataclasses.replace(objective, loss="ce")
    return dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, num_classes=len(classes)),
        objective=objective,
        data=dataclasses.replace(run.data, classes=tuple(classes)),
    )


def skim_rows(*, epochs: int, looks: int, classes: Sequence[str]) -> "dict[str, SkimRun]":
    """How films are looked at, all with the same heads and the same number of looks."""
    from lookhear.models.skimmer import Policy
    from lookhear.recipes.skimming import skim_tiny
    from lookhear.study.skim_trials import LEARNED

    run = skim_tiny()
    # films here are shorter than those of the recipe
    data = dataclasses.replace(run.data, split=LEARNED, shortest=20, longest=60, classes=tuple(classes))
    policies: dict[str, Policy] = {SKIMMED: "recurrent", ONE_QUERY: "single_query", EVENLY: "uniform"}
    return {
        row: dataclasses.replace(
            run, data=data, epochs=epochs, model=dataclasses.replace(run.model, policy=policy, looks=looks)
        )
        for row, policy in policies.items()
    }


# ---- claims

FEATURES = ("k-NN, sound", "k-NN, pictures", "sound recognition", "action recognition")
PAIRS = ("sound finds picture", "picture finds sound")
CLAIMS: tuple[Claim, ...] = (
    Claim(
        says="cross-modal beats within-modal instance discrimination",
        better=AVID_CROSS,
        worse=AVID_SELF,
        figures=FEATURES,
    ),
    Claim(
        says="stage II adds to stage I, for the same number of steps",
        better=SSCL_BOTH,
        worse=SSCL_FIRST,
        figures=(*PAIRS, *FEATURES),
    ),
    Claim(says="compositional distillation beats plain", better=CCL_BOTH, worse=PLAIN, figures=(NAMED,)),
    Claim(says="distillation beats labels alone", better=CCL_BOTH, worse=LABELS_ALONE, figures=(NAMED,)),
    Claim(
        says="a picture and a sound keep most of what the clip teacher tells",
        better=STUDENT,
        worse=LABELS_ALONE,
        figures=(NAMED,),
        keeps=0.8,
        chance=CHANCE_NAMED,
    ),
    Claim(
        says="skimmed moments tell more than as many evenly spaced ones",
        better=SKIMMED,
        worse=EVENLY,
        figures=("names the film", "average precision"),
    ),
)
