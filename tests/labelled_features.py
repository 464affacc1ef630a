"""Clips of a few kinds as features, for tests of probes: no model, no store."""

import numpy as np

from lookhear.tasks.labels.features import ClipFeatures


def blob_clips(
    count: int,
    seed: int,
    *,
    kinds: int = 3,
    spread: float = 0.3,
    windows: int = 2,
    clips_of_a_file: int = 1,
    stages: bool = False,
) -> list[ClipFeatures]:
    """Clips of `kinds` kinds by turns, each around the point of its kind; of one modality, with one wide stage more."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((kinds, 8))
    found = []
    for number in range(count):
        kind = number // clips_of_a_file % kinds
        steps = (centres[kind] + spread * rng.standard_normal((windows, 8))).astype(np.float32)
        noise = rng.standard_normal((windows, 12)).astype(np.float32)
        found.append(
            ClipFeatures(
                clip_id=f"{seed}-{number}",
                index=number,
                path=f"{seed}-{number // clips_of_a_file}.mp4",
                labels=(f"kind {kind}",),
                audio=None,
                visual=steps,
                stages={"visual 1": noise, "visual 2": steps} if stages else {},
            )
        )
    return found
