"""How well sound and picture of held-out clips find each other, asked again and again as a model is pre-trained."""

from torch import nn

from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.data.store import Store
from lookhear.embedder import Embedder
from lookhear.tasks.matching.similarity import pair_ranks
from lookhear.tasks.metrics import median_rank, recall_at
from lookhear.tasks.windows import embed_windows
from lookhear.training.loop import Evaluator
from lookhear.training.run import Run

RETRIEVAL = "retrieval"  # the evaluator's name in the journal


def judge_retrieval(run: Run, store: Store) -> Evaluator:
    """An evaluator: R@1, R@5 and median rank both ways among the clips of the validation split of `run`.

    A clip is its disjoint windows, compared by the mean over equal places, as in `lookhear evaluate retrieval`, whose
    intervals and controls are for the figures to report. Raises StoreError where the split has no clip.
    """
    assert run.data.validation_split is not None
    indices = store.clips_in_split(run.data.validation_split)

    def judge(model: nn.Module, preprocess: PreprocessConfig) -> dict[str, float]:
        device = str(next(model.parameters()).device)
        embedder = Embedder(
            model, Preprocess(preprocess), config=run.model, fingerprint="", device=device, dtype=run.dtype
        )
        windows = embed_windows(embedder, store, indices=indices.tolist())
        found = pair_ranks(windows.audio, windows.visual, counts=windows.counts)["diagonal_mean"]
        figures = {"chance_r1": 1 / len(windows), "chance_r5": min(1.0, 5 / len(windows))}
        for name in ("audio_to_visual", "visual_to_audio"):
            side = getattr(found, name)
            figures |= {f"{name}_r{k}": recall_at(side, k) for k in (1, 5)}
            figures[f"{name}_median_rank"] = median_rank(side)
        return figures

    return judge
