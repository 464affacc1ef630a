"""The skimmer against its formulas taken one video, one step and one moment at a time.

If these fail, attention reads what it must not (padding, moments chosen before, what a video lacks), or a published
step is done otherwise than the paper says.
"""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from lookhear.errors import ConfigError
from lookhear.models.skimmer import Moments, Skimmer, SkimmerConfig
from lookhear.models.transformer import Stream

AUDIO, VISUAL = Stream.AUDIO, Stream.VISUAL
SMALL = SkimmerConfig(
    num_classes=5,
    audio_width=6,
    visual_width=8,
    looks=4,
    hidden_width=16,
    key_width=8,
    fusion_width=12,
    fused_width=10,
)


def make(config: SkimmerConfig = SMALL, *, seed: int = 0) -> Skimmer:
    """Random enough that attention is far from even, and that the running statistics of norms matter."""
    torch.manual_seed(seed)
    skimmer = Skimmer(config)
    for parameter in skimmer.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    for name, buffer in skimmer.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            buffer.normal_()
    return skimmer.eval()


def videos(counts: list[int], *, pad: int = 0, seed: int = 1, config: SkimmerConfig = SMALL) -> Moments:
    """Videos of `counts` moments; what is beyond a video's own is not zero, so that reading it shows."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(counts) + pad
    has = torch.arange(longest)[None] < torch.tensor(counts)[:, None]
    features = {}
    for stream, width in ((VISUAL, config.visual_width), (AUDIO, config.audio_width)):
        rows = [torch.randn(count, width, generator=generator) for count in counts]
        features[stream] = torch.stack([torch.cat([row, torch.full((longest - len(row), width), 7.0)]) for row in rows])
    return Moments(features=features, has={VISUAL: has, AUDIO: has.clone()})


def literal_norm(norm: torch.nn.BatchNorm1d, row: Tensor) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return (row - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps) * norm.weight + norm.bias


def literal_lstm(skimmer: Skimmer, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    cell = skimmer.memory
    gates = cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh
    i, f, g, o = gates.chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def literal(skimmer: Skimmer, visual: Tensor, audio: Tensor, *, selection: str, repeats: bool) -> tuple[Tensor, list]:
    """Sections 1 to 7 of one video (N, D), with the four sums of step 6 as they are printed."""
    config, num = skimmer.config, len(visual)
    keys = {}
    for stream, bank in ((VISUAL, visual), (AUDIO, audio)):
        linear, norm, _ = skimmer.keys[stream]
        keys[stream] = [literal_norm(norm, linear.weight @ row + linear.bias).clamp(min=0) for row in bank]
    z_visual, z_audio = visual.mean(0), audio.mean(0)
    h = c = torch.zeros(config.hidden_width)
    struck: dict[Stream, set[int]] = {VISUAL: set(), AUDIO: set()}
    seen, chosen = [], []
    for look in range(config.looks):
        x = skimmer.fusion(z_visual, z_audio)
        seen.append(x)
        if look == config.looks - 1:
            break
        h, c = literal_lstm(skimmer, x, h, c)
        attention = {}
        for stream in (VISUAL, AUDIO):
            first, norm, _, last = skimmer.queries[stream]
            query = last(literal_norm(norm, first(h)).clamp(min=0))
            scores = [float(query @ key) / math.sqrt(config.key_width) for key in keys[stream]]
            weights = [0.0 if n in struck[stream] else math.exp(scores[n]) for n in range(num)]
            attention[stream] = torch.tensor([weight / sum(weights) for weight in weights])
        mu = torch.softmax(skimmer.modality(h), dim=0)
        peaks = {stream: int(attention[stream].argmax()) for stream in attention}
        if selection == "hard":
            best = int((mu[0] * attention[VISUAL] + mu[1] * attention[AUDIO]).argmax())
            peaks = {VISUAL: best, AUDIO: best}
        if selection != "soft":
            attention = {s: torch.nn.functional.one_hot(torch.tensor(peaks[s]), num).float() for s in peaks}
        z_visual = mu[0] * sum(w * f for w, f in zip(attention[VISUAL], visual, strict=True)) + mu[1] * sum(
            w * f for w, f in zip(attention[AUDIO], visual, strict=True)
        )
        z_audio = mu[0] * sum(w * f for w, f in zip(attention[VISUAL], audio, strict=True)) + mu[1] * sum(
            w * f for w, f in zip(attention[AUDIO], audio, strict=True)
        )
        chosen.append(peaks)
        for stream in peaks:
            if not repeats:
                struck[stream].add(peaks[stream])
                if len(struck[stream]) == num:
                    struck[stream] = set()
    return skimmer.head(torch.stack(seen).mean(0)), chosen


@pytest.mark.parametrize("selection", ["soft", "hard", "hard_each"])
@pytest.mark.parametrize("repeats", [False, True])
def test_equals_the_literal_steps(selection: str, repeats: bool) -> None:
    skimmer = make(dataclasses.replace(SMALL, repeats=repeats, selection=selection))
    moments = videos([7, 2, 5])
    with torch.no_grad():
        found = skimmer(moments)
        for row, count in enumerate([7, 2, 5]):
            visual, audio = (moments.features[stream][row, :count] for stream in (VISUAL, AUDIO))
            expected, chosen = literal(skimmer, visual, audio, selection=selection, repeats=repeats)
            torch.testing.assert_close(found.logits[row], expected, atol=1e-5, rtol=1e-5)
            if selection == "soft":
                for stream, peaks in found.peaks.items():
                    assert peaks[row].tolist() == [each[stream] for each in chosen]
            elif selection == "hard":
                assert found.chosen[row].tolist() == [each[VISUAL] for each in chosen]
            else:
                assert found.chosen[row].tolist() == [each[s] for each in chosen for s in (VISUAL, AUDIO)]


def test_size_is_the_published_one() -> None:
    skimmer = Skimmer(SkimmerConfig(num_classes=200))
    assert sum(p.numel() for p in skimmer.parameters()) == pytest.approx(11.86e6, rel=2e-3)
    memory = sum(p.numel() for p in skimmer.memory.parameters())
    assert memory == pytest.approx(6.30e6, rel=2e-3)
    assert not skimmer.memory.bias_ih.any()


def test_attention_sums_to_one_and_is_zero_on_padding() -> None:
    skimmer = make()
    found = skimmer(videos([6, 3], pad=4))
    assert len(found.glances) == SMALL.looks - 1
    for glance in found.glances:
        for part in (*glance.maps.values(), glance.mixed):
            torch.testing.assert_close(part.sum(1), torch.ones(2))
            assert not part[0, 6:].any()
            assert not part[1, 3:].any()
        torch.testing.assert_close(glance.weights.sum(1), torch.ones(2))


@pytest.mark.parametrize("policy", ["recurrent", "single_query", "uniform"])
@pytest.mark.parametrize("selection", ["soft", "hard", "hard_each"])
def test_padding_changes_nothing(policy: str, selection: str) -> None:
    skimmer = make(dataclasses.replace(SMALL, policy=policy, selection=selection))
    counts = [9, 1, 4]
    short, long = skimmer(videos(counts)), skimmer(videos(counts, pad=20))
    torch.testing.assert_close(short.logits, long.logits)
    alone = [skimmer(videos(counts, pad=3)).logits[row] for row in range(3)]
    torch.testing.assert_close(torch.stack(alone), short.logits)


@pytest.mark.parametrize("policy", ["recurrent", "single_query", "uniform"])
def test_norms_do_not_see_padding_in_training(policy: str) -> None:
    moved = []
    for pad in (0, 11):
        skimmer = make(dataclasses.replace(SMALL, policy=policy)).train()
        skimmer(videos([5, 3], pad=pad))
        moved.append({name: value.clone() for name, value in skimmer.named_buffers()})
    for name, value in moved[0].items():
        torch.testing.assert_close(moved[1][name], value)


@pytest.mark.parametrize("policy", ["recurrent", "single_query", "uniform"])
@pytest.mark.parametrize("selection", ["soft", "hard", "hard_each"])
@pytest.mark.parametrize("looks", [1, 2, 12])
@pytest.mark.parametrize("training", [False, True])
def test_one_short_video(policy: str, selection: str, looks: int, training: bool) -> None:
    """B = 1, fewer moments than looks: no crash, finite, and gradients that are finite."""
    skimmer = make(dataclasses.replace(SMALL, policy=policy)).train(training)
    found = skimmer(videos([3]), looks=looks, selection=selection)
    found.logits.square().sum().backward()
    assert found.logits.shape == (1, 5)
    assert found.logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in skimmer.parameters())


def test_no_moment_twice_until_all_are_seen() -> None:
    skimmer = make(dataclasses.replace(SMALL, looks=11, selection="hard"))
    chosen = skimmer(videos([5])).chosen[0].tolist()
    assert sorted(chosen[:5]) == [0, 1, 2, 3, 4]
    assert sorted(chosen[5:]) == [0, 1, 2, 3, 4]
    again = make(dataclasses.replace(SMALL, looks=11, selection="hard", repeats=True))
    assert len(set(again(videos([5])).chosen[0].tolist())) < 5


def test_mean_start_strikes_nothing() -> None:
    """A known mistake of the published code: a random moment was struck although none had been seen."""
    skimmer = make(dataclasses.replace(SMALL, looks=2))
    for seed in range(5):
        torch.manual_seed(seed)
        assert bool((skimmer(videos([6])).glances[0].mixed > 0).all())


def test_random_start_is_seen_and_struck() -> None:
    skimmer = make(dataclasses.replace(SMALL, start="random", looks=2, selection="hard"))
    moments = videos([6])
    found = skimmer(moments, noise=torch.tensor([[0.5, 0.0]]))
    torch.testing.assert_close(found.fused[:, 0], skimmer.fuse({s: f[:, 3] for s, f in moments.features.items()}))
    assert found.chosen[0, 0] == 3
    assert found.glances[0].mixed[0, 3] == 0
    with pytest.raises(ConfigError, match="noise"):
        skimmer(moments)


def test_modality_attention_learns_unless_told_not_to() -> None:
    """In the published run it was left out of the optimiser by mistake."""
    for learn in (True, False):
        skimmer = make(dataclasses.replace(SMALL, learn_modality_attention=learn))
        skimmer(videos([6, 4])).logits.sum().backward()
        assert skimmer.modality is not None
        assert (skimmer.modality.weight.grad is not None) == learn


def test_a_video_without_sound_is_seen_all_the_same() -> None:
    skimmer, moments = make(), videos([6, 6])
    silent = moments.has[AUDIO].clone()
    silent[0] = False
    features = dict(moments.features)
    features[AUDIO] = features[AUDIO].masked_fill(~silent[..., None], torch.nan)
    found = skimmer(Moments(features=features, has={VISUAL: moments.has[VISUAL], AUDIO: silent}))
    assert found.logits.isfinite().all()
    for glance in found.glances:
        assert glance.weights[0].tolist() == [1.0, 0.0]
        assert not glance.maps[AUDIO][0].any()
    torch.testing.assert_close(found.logits[1], skimmer(moments).logits[1])


@pytest.mark.parametrize("stream", [AUDIO, VISUAL])
def test_one_modality(stream: Stream) -> None:
    """Its own features are averaged, those of T queries, and not the overview."""
    other = {"audio_width": 0} if stream == VISUAL else {"visual_width": 0}
    skimmer = make(dataclasses.replace(SMALL, average_start=False, **other))
    moments = videos([6, 4])
    found = skimmer(Moments(features={stream: moments.features[stream]}, has={stream: moments.has[stream]}))
    assert skimmer.fusion is None
    assert skimmer.modality is None
    assert len(found.glances) == SMALL.looks
    expected = torch.stack(
        [torch.einsum("bn,bnd->bd", glance.mixed, moments.features[stream]) for glance in found.glances], dim=1
    )
    torch.testing.assert_close(found.fused, expected)
    torch.testing.assert_close(found.logits, skimmer.head(expected.mean(1)))


def test_single_query_takes_the_highest() -> None:
    skimmer = make(dataclasses.replace(SMALL, policy="single_query", selection="hard"))
    moments = videos([8, 2])
    found = skimmer(moments)
    (glance,) = found.glances
    assert found.chosen[0].tolist() == glance.mixed[0].topk(3).indices.tolist()
    assert sorted(found.chosen[1].tolist()) == [-1, 0, 1]
    picked = {s: f[1, [0, 1]] for s, f in moments.features.items()}
    mean = (found.fused[1, 0] + skimmer.fuse(picked).sum(0)) / 3
    torch.testing.assert_close(found.logits[1], skimmer.head(mean))
    soft = skimmer(moments, selection="soft")
    assert soft.logits.requires_grad
    soft.logits.sum().backward()
    assert skimmer.queries[AUDIO][0].weight.grad.abs().sum() > 0, "soft selection must teach the query"


def test_uniform_moments_are_the_middles_of_equal_parts() -> None:
    skimmer = make(dataclasses.replace(SMALL, policy="uniform"))
    moments = videos([8, 3])
    found = skimmer(moments)
    assert found.chosen.tolist() == [[1, 3, 5, 7], [0, 1, 2, -1]]
    whole = skimmer(moments, looks=100)
    dense = torch.stack(
        [skimmer.fuse({s: f[row, :n] for s, f in moments.features.items()}).mean(0) for row, n in ((0, 8), (1, 3))]
    )
    torch.testing.assert_close(whole.logits, skimmer.head(dense))
    jittered = skimmer(moments, noise=torch.tensor([[0.0, 0.99, 0.0, 0.99]] * 2))
    assert jittered.chosen.tolist() == [[0, 3, 4, 7], [0, 1, 2, -1]]


def test_moments_between_those_seen_are_interpolated() -> None:
    """What is not seen beforehand must not leak into the choice."""
    skimmer = make(dataclasses.replace(SMALL, visual_every=4, audio_every=3, selection="soft"))
    moments = videos([10])
    hidden = {s: f.clone() for s, f in moments.features.items()}
    hidden[VISUAL][:, [1, 2, 3, 5, 6, 7, 9]] = 99.0
    hidden[AUDIO][:, [1, 2, 4, 5, 7, 8]] = 99.0
    torch.testing.assert_close(skimmer(Moments(features=hidden, has=moments.has)).logits, skimmer(moments).logits)
    filled = {s: f.clone() for s, f in moments.features.items()}
    for stream, every in ((VISUAL, 4), (AUDIO, 3)):
        last = 9 // every * every
        for n in range(10):
            left = min(n // every * every, last)
            right = min(left + every, last)
            share = (n - left) / every if right > left else 0.0
            filled[stream][0, n] = (1 - share) * moments.features[stream][0, left] + share * moments.features[stream][
                0, right
            ]
    dense = make(SMALL)
    torch.testing.assert_close(
        dense(Moments(features=filled, has=moments.has)).logits, skimmer(moments).logits, atol=1e-5, rtol=1e-5
    )


def test_hard_selection_asks_for_what_it_chose_and_nothing_else() -> None:
    config = dataclasses.replace(SMALL, visual_every=5, audio_every=5, selection="hard")
    skimmer, moments = make(config), videos([11])
    asked: list[int] = []

    def read(places: Tensor) -> dict[Stream, Tensor]:
        asked.extend(places.flatten().tolist())
        return {s: f.gather(1, places[..., None].expand(-1, -1, f.shape[2])) for s, f in moments.features.items()}

    sparse = {s: torch.full_like(f, torch.nan) for s, f in moments.features.items()}
    for stream, bank in sparse.items():
        bank[:, ::5] = moments.features[stream][:, ::5]
    seen = torch.zeros(1, 11, dtype=torch.bool)
    seen[:, ::5] = True
    found = skimmer(Moments(features={s: f.nan_to_num() for s, f in sparse.items()}, has=moments.has), read=read)
    assert asked == found.chosen[0].tolist()
    assert len(set(asked)) == config.looks - 1
    torch.testing.assert_close(found.logits, skimmer(moments).logits)


def test_wrong_features_are_refused() -> None:
    skimmer, moments = make(), videos([4])
    with pytest.raises(ConfigError, match="visual features of 8 numbers and was given features of 6"):
        skimmer(Moments(features={VISUAL: moments.features[AUDIO], AUDIO: moments.features[AUDIO]}, has=moments.has))
    with pytest.raises(ConfigError, match="audio features of 6 numbers and was given none"):
        skimmer(Moments(features={VISUAL: moments.features[VISUAL]}, has={VISUAL: moments.has[VISUAL]}))
    nothing = {s: torch.zeros_like(h) for s, h in moments.has.items()}
    with pytest.raises(ConfigError, match="no moment"):
        skimmer(Moments(features=moments.features, has=nothing))
    with pytest.raises(ConfigError, match="needs features"):
        SkimmerConfig(num_classes=2, audio_width=0, visual_width=0)
