"""Skimming a long video: a small recurrent model that decides which of its moments to look at, and names the video.

Gao et al., "Listen to Look", CVPR 2020, IMGAUD-SKIMMING. It reads features that were made before, one of sound and one
of picture a moment, or asks for those of the moments that it chose.

B videos, N moments of the longest, T looks, m moments read at once, D width of a feature, F width after fusing, H width
of the memory, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lookhear.errors import ConfigError
from lookhear.models.fusion import Fusion, small_normal
from lookhear.models.norms import RowNorm
from lookhear.models.tokens import Grid
from lookhear.models.transformer import Stream

Policy = Literal["recurrent", "single_query", "uniform"]
Selection = Literal["soft", "hard", "hard_each"]
# Takes int64 (B, m), moments that were chosen, and gives their features (B, m, D) of every modality; zeros where a
# moment lacks one.
Reader = Callable[[Tensor], Mapping[Stream, Tensor]]
# The published order: the picture first.
STREAMS = (Stream.VISUAL, Stream.AUDIO)


@dataclass(frozen=True, kw_only=True)
class SkimmerConfig:
    """Sizes of a skimmer and how it looks; the defaults are the published ones for features of 512 numbers."""

    num_classes: int
    """labels"""
    audio_width: int = 512
    """of the sound's features; 0: there are none"""
    visual_width: int = 512
    """of the picture's features; 0: there are none"""
    looks: int = 10
    """how many vectors are averaged, T: an overview of the video, then moments that were chosen"""
    policy: Policy = "recurrent"
    """recurrent: each look decides about the next; single_query: the overview decides about all of them; uniform:
    evenly spaced moments, to compare with"""
    selection: Selection = "soft"
    """after training. soft: sums weighted by the attention, as in training; hard: one moment, where picture's and
    sound's attention together are highest; hard_each: one moment for each of the two"""
    repeats: bool = False
    """whether a moment may be chosen again"""
    start: Literal["mean", "random"] = "mean"
    """what is seen first: the mean of all moments, or one of them drawn at random"""
    average_start: bool = True
    """whether what is seen first is one of the T vectors that are averaged; no in the published one for one modality"""
    audio_every: int = 1
    """only every so many-th moment is heard before anything is chosen; between them features are interpolated"""
    visual_every: int = 1
    """the same of the picture"""
    read: Literal["interpolated", "moments"] = "interpolated"
    """what soft selection sums: those interpolated features, or those of every moment; hard selection reads moments"""
    hidden_width: int = 1024
    """of the memory and of the queries' hidden layer, H"""
    key_width: int = 512
    """of queries and keys"""
    fusion_width: int = 1024
    """of the fusing network's hidden layer"""
    fused_width: int = 512
    """of a moment after fusing sound and picture, F; with one modality it is the width of its features"""
    learn_modality_attention: bool = True
    """whether the weights that picture's and sound's attention get are learned; the published run left them out"""

    def __post_init__(self) -> None:
        if self.audio_width < 0 or self.visual_width < 0 or not self.audio_width + self.visual_width:
            raise ConfigError("a skimmer needs features: set audio_width or visual_width above 0")
        names = ("num_classes", "looks", "audio_every", "visual_every", "hidden_width", "key_width", "fusion_width")
        small = [name for name in (*names, "fused_width") if getattr(self, name) < 1]
        if small:
            raise ConfigError(f"{', '.join(small)} must be at least 1")

    def width(self, stream: Stream) -> int:
        """D of a modality; 0 where it is not read."""
        return self.visual_width if stream == Stream.VISUAL else self.audio_width

    def every(self, stream: Stream) -> int:
        """Of how many moments one is seen (or heard) before anything is chosen."""
        return self.visual_every if stream == Stream.VISUAL else self.audio_every

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The modalities that are read."""
        return tuple(stream for stream in STREAMS if self.width(stream))

    def position_tables(self) -> dict[str, Grid]:
        """None: moments have no positions."""
        return {}

    def unseen_settings(self) -> dict[str, int | bool | str]:
        """What changes the outputs but shows in no tensor: part of a checkpoint's fingerprint."""
        names = ("looks", "policy", "selection", "repeats", "start", "average_start")
        return {name: getattr(self, name) for name in (*names, "audio_every", "visual_every", "read")}


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """The features of B videos, padded to the longest. What a moment lacks, padding too, may hold anything."""

    features: Mapping[Stream, Tensor]  # float32 (B, N, D) of each modality
    has: Mapping[Stream, Tensor]  # bool (B, N): which moments have it

    @property
    def real(self) -> Tensor:
        """bool (B, N): the moments that have anything."""
        return torch.stack(list(self.has.values())).any(dim=0)

    def to(self, device: torch.device) -> "Moments":
        """The same on `device`."""
        return Moments(
            features={stream: value.to(device) for stream, value in self.features.items()},
            has={stream: value.to(device) for stream, value in self.has.items()},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Glance:
    """Where one query looks."""

    maps: Mapping[Stream, Tensor]  # (B, N) of each modality: sums to 1; all 0 where a video lacks the modality
    weights: Tensor  # (B, modalities): how much each map counts
    mixed: Tensor  # (B, N): the maps, weighted


@dataclass(frozen=True, kw_only=True, eq=False)
class Skim:
    """What was looked at, and what it says."""

    logits: Tensor  # (B, C), of the mean of the vectors
    fused: Tensor  # (B, T, F): the vectors that are averaged; those beyond `counted` are zeros
    counted: Tensor  # bool (B, T)
    step_logits: Tensor | None = None  # (B, T, C): what the memory says after each look
    glances: tuple[Glance, ...] = ()
    chosen: Tensor  # int64 (B, K): the moments whose own features were read, -1 for none

    @property
    def peaks(self) -> dict[Stream, Tensor]:
        """int64 (B, queries): the moment that each query's map of a modality is highest at."""
        streams = self.glances[0].maps if self.glances else ()
        return {s: torch.stack([glance.maps[s].argmax(1) for glance in self.glances], dim=1) for s in streams}


class Skimmer(nn.Module):
    """Looks at few moments of a video and names it by the mean of what it saw.

    Once a video: a key for every moment and modality. Then, T times: what was read is fused and fed to the memory,
    which asks two queries, one for the picture's keys and one for the sound's; the two attention maps are mixed by
    weights that the memory gives as well, and both banks are read with the mixed map. (The paper reads each bank with
    each map and mixes the four sums, which is the same.)

    Labels come from the mean of the fused vectors ("non-recursive averaging"), not from the memory; that has a head of
    its own, which can be trained beside it. The last query of the published model, whose answer nothing reads, is not
    asked. Batch norms see real moments only, so that padding changes nothing.
    """

    config: SkimmerConfig

    def __init__(self, config: SkimmerConfig) -> None:
        super().__init__()
        self.config = config
        streams, both = config.streams, len(config.streams) == 2
        self.fusion = (
            Fusion(
                visual_width=config.visual_width,
                audio_width=config.audio_width,
                hidden_width=config.fusion_width,
                width=config.fused_width,
            )
            if both
            else None
        )
        width = config.fused_width if both else config.width(streams[0])
        self.head = nn.Linear(width, config.num_classes)
        if config.policy != "uniform":
            hidden, keys = config.hidden_width, config.key_width
            self.memory = _memory(width, hidden)
            self.queries = nn.ModuleDict({stream: _query(hidden, keys) for stream in streams})
            self.keys = nn.ModuleDict(
                {s: nn.Sequential(nn.Linear(config.width(s), keys), RowNorm(keys), nn.ReLU()) for s in streams}
            )
            self.step_head = nn.Linear(hidden, config.num_classes)
            self.modality = nn.Linear(hidden, len(streams)) if both else None
            for part in (self.queries, self.keys, self.step_head, self.modality):
                if part is not None:
                    part.apply(small_normal)
            if self.modality is not None:
                self.modality.requires_grad_(config.learn_modality_attention)
        self.head.apply(small_normal)

    def forward(
        self,
        moments: Moments,
        *,
        looks: int | None = None,
        policy: Policy | None = None,
        selection: Selection | None = None,
        noise: Tensor | None = None,
        read: Reader | None = None,
    ) -> Skim:
        """Looks `looks` times at each video, by `policy` (both None: as configured; uniform goes with any).

        `noise` in [0, 1), (B, T): a random start, and evenly spaced moments moved within their parts of the video.
        `selection` None: soft in training, the configured one after it. With `read`, hard selection asks for features
        of moments that `moments` need not hold: only every `audio_every`-th and `visual_every`-th is looked at there.
        Raises ConfigError for a video without a moment, a width that is not the configured one, a random start without
        noise, and a policy that was not learned.
        """
        config, looks, policy = self.config, looks or self.config.looks, policy or self.config.policy
        if policy != "uniform" and config.policy == "uniform":
            raise ConfigError(f"this skimmer has learned no queries, so policy '{policy}' is not for it; take uniform")
        if noise is None and config.start == "random" and policy != "uniform":
            raise ConfigError("start 'random' needs random numbers: give noise, or set start to mean")
        moments = self._checked(moments)
        read = read or _gather(moments.features)
        if policy == "uniform":
            return self._evenly(moments.real, read, looks, noise)
        index = {s: _every(moments.features[s], moments.has[s], config.every(s)) for s in config.streams}
        eyes = _Eyes(
            self,
            index=index,
            has=moments.has,
            values=index if config.read == "interpolated" else moments.features,
            read=read,
            selection=selection or ("soft" if self.training else config.selection),
        )
        start = eyes.mean() if config.start == "mean" else eyes.at_random(moments.real, noise)
        return self._recurrent(eyes, start, looks) if policy == "recurrent" else self._once(eyes, start, looks)

    def _recurrent(self, eyes: "_Eyes", start: Tensor, looks: int) -> Skim:
        fused, states, glances = [start], [], []
        state: tuple[Tensor, Tensor] | None = None
        for look in range(looks):
            state = self.memory(fused[-1], state)
            states.append(state[0])
            if look < looks - 1 or not self.config.average_start:
                glance = eyes.ask(state[0])
                glances.append(glance)
                fused.append(eyes.follow(glance))
        seen = torch.stack(fused if self.config.average_start else fused[1:], dim=1)  # (B, T, F)
        counted = torch.ones(seen.shape[:2], dtype=torch.bool, device=seen.device)
        return self._skim(seen, counted, eyes, glances, states)

    def _once(self, eyes: "_Eyes", start: Tensor, looks: int) -> Skim:
        """One query: the moments with the highest weights. In soft selection the weights count, so that they learn."""
        state = self.memory(start, None)[0]
        rest = looks - 1 if self.config.average_start else looks
        first = start[:, None][:, : looks - rest]
        ones = torch.ones(first.shape[:2], dtype=torch.bool, device=start.device)
        if not rest:
            return self._skim(first, ones, eyes, [], [state])
        glance = eyes.ask(state)
        found = eyes.highest(glance, rest)
        seen = torch.cat([first, found.fused * found.shares[..., None]], dim=1)
        return self._skim(seen, torch.cat([ones, found.counted], dim=1), eyes, [glance], [state])

    def _evenly(self, real: Tensor, read: Reader, looks: int, noise: Tensor | None) -> Skim:
        """One moment in each of T equal parts of a video: the middle one, or by `noise` any. All, where T are not."""
        count = real.sum(dim=1, keepdim=True)  # (B, 1)
        num = count.clamp(max=looks)
        slots = torch.arange(min(looks, real.shape[1]), device=real.device)[None]  # (1, m)
        within = 0.5 if noise is None else noise[:, : slots.shape[1]]
        ranks = ((slots + within) * count / num).floor().long().clamp(max=count - 1)  # among the real ones
        places = (~real).long().argsort(dim=1, stable=True).gather(1, ranks)
        counted = (slots < num).expand_as(places)
        fused = self.fuse(read(places)) * counted[..., None]
        return Skim(
            logits=self.head(_mean(fused, counted)),
            fused=fused,
            counted=counted,
            chosen=places.masked_fill(~counted, -1),
        )

    def _skim(self, fused: Tensor, counted: Tensor, eyes: "_Eyes", glances: list[Glance], states: list[Tensor]) -> Skim:
        return Skim(
            logits=self.head(_mean(fused, counted)),
            fused=fused,
            counted=counted,
            step_logits=self.step_head(torch.stack(states, dim=1)),
            glances=tuple(glances),
            chosen=eyes.chosen(),
        )

    def fuse(self, features: Mapping[Stream, Tensor]) -> Tensor:
        """(..., F) of the features (..., D) of each modality; of one alone the features themselves."""
        if self.fusion is None:
            return features[self.config.streams[0]]
        return self.fusion(features[Stream.VISUAL], features[Stream.AUDIO])

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of the classifier of videos: training may give them a learning rate of their own."""
        return list(self.head.parameters())

    def _checked(self, moments: Moments) -> Moments:
        """What is read of `moments`, with zeros where a moment has nothing (a sum would turn one NaN into all)."""
        for stream in self.config.streams:
            found = moments.features.get(stream)
            if found is None or found.shape[2] != self.config.width(stream):
                has = "none" if found is None else f"features of {found.shape[2]} numbers"
                raise ConfigError(
                    f"this skimmer reads {stream} features of {self.config.width(stream)} numbers and was given {has}; "
                    "give it those of the model that it was trained with"
                )
        there = {stream: moments.has[stream] for stream in self.config.streams}
        clean = {stream: moments.features[stream].masked_fill(~there[stream][..., None], 0.0) for stream in there}
        moments = Moments(features=clean, has=there)
        if not bool(moments.real.any(dim=1).all()):
            raise ConfigError("a video has no moment with a feature, so there is nothing to look at; leave it out")
        return moments


def _memory(width: int, hidden: int) -> nn.Module:
    """An LSTM cell whose two weight matrices have their lengths learned apart, and no bias at the start."""
    cell = nn.LSTMCell(width, hidden)
    nn.init.zeros_(cell.bias_ih)
    nn.init.zeros_(cell.bias_hh)
    return weight_norm(weight_norm(cell, "weight_ih"), "weight_hh")


def _query(hidden: int, keys: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(hidden, hidden), RowNorm(hidden), nn.ReLU(), nn.Linear(hidden, keys))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    fused: Tensor  # (B, m, F)
    shares: Tensor  # (B, m): mean 1 over those that count
    counted: Tensor  # bool (B, m)


class _Eyes:
    """The keys of B videos, which of their moments are still open, and how they are read."""

    def __init__(
        self,
        skimmer: Skimmer,
        *,
        index: Mapping[Stream, Tensor],
        has: Mapping[Stream, Tensor],
        values: Mapping[Stream, Tensor],
        read: Reader,
        selection: Selection,
    ) -> None:
        self._skimmer, self._index, self._has, self._values = skimmer, index, has, values
        self._read, self._selection = read, selection
        self._keys = {stream: _on_rows(skimmer.keys[stream], index[stream], has[stream]) for stream in index}
        self._open = dict(has)
        self._chosen: list[Tensor] = []

    def mean(self) -> Tensor:
        """The overview (B, F): each modality's mean over the moments that have it, fused."""
        return self._skimmer.fuse({s: _mean(self._index[s], self._has[s]) for s in self._index})

    def at_random(self, real: Tensor, noise: Tensor | None) -> Tensor:
        """One moment (B, F), which is not open any more."""
        assert noise is not None
        rank = (noise[:, :1] * real.sum(dim=1, keepdim=True)).floor().long()
        place = (~real).long().argsort(dim=1, stable=True).gather(1, rank)  # (B, 1)
        self._strike(dict.fromkeys(self._open, place))
        self._chosen.append(place)
        return self._skimmer.fuse(self._read(place))[:, 0]

    def ask(self, memory: Tensor) -> Glance:
        """The attention of both queries of `memory` (B, H)."""
        maps, some = {}, []
        for stream, keys in self._keys.items():
            query = self._skimmer.queries[stream](memory)  # (B, d)
            scores = torch.einsum("bd,bnd->bn", query, keys) * keys.shape[2] ** -0.5
            maps[stream] = _masked_softmax(scores, self._open[stream])
            some.append(self._has[stream].any(dim=1))
        modality = self._skimmer.modality
        scores = memory.new_zeros(len(memory), 1) if modality is None else modality(memory)
        weights = _masked_softmax(scores, torch.stack(some, dim=1))  # (B, modalities)
        mixed = sum(weights[:, i, None] * part for i, part in enumerate(maps.values()))
        assert isinstance(mixed, Tensor)
        return Glance(maps=maps, weights=weights, mixed=mixed)

    def follow(self, glance: Glance) -> Tensor:
        """What is read (B, F) where `glance` points."""
        best = glance.mixed.argmax(dim=1, keepdim=True)  # (B, 1)
        peaks = {  # where a video lacks a modality, its map is empty
            stream: torch.where(part.any(dim=1, keepdim=True), part.argmax(dim=1, keepdim=True), best)
            for stream, part in glance.maps.items()
        }
        if self._selection == "soft":
            self._strike(peaks)
            mixed = glance.mixed
            return self._skimmer.fuse({s: torch.einsum("bn,bnd->bd", mixed, v) for s, v in self._values.items()})
        if self._selection == "hard":
            places, shares = best, torch.ones_like(glance.mixed[:, :1])
            peaks = dict.fromkeys(peaks, best)
        else:
            places, shares = torch.cat(list(peaks.values()), dim=1), glance.weights
        self._strike(peaks)
        self._chosen.append(places)
        found = self._read(places)  # (B, m, D) each
        return self._skimmer.fuse({s: torch.einsum("bm,bmd->bd", shares, part) for s, part in found.items()})

    def highest(self, glance: Glance, count: int) -> _Found:
        """The `count` moments with the highest mixed weights, or all that there are."""
        weights, places = glance.mixed.topk(min(count, glance.mixed.shape[1]), dim=1)
        counted = torch.stack(list(self._has.values())).any(dim=0).gather(1, places)
        if self._selection == "soft":
            found = {s: v.gather(1, places[..., None].expand(-1, -1, v.shape[2])) for s, v in self._values.items()}
            shares = weights * counted.sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
        else:
            self._chosen.append(places.masked_fill(~counted, -1))
            found = dict(self._read(places))
            shares = torch.ones_like(weights)
        return _Found(fused=self._skimmer.fuse(found), shares=shares * counted, counted=counted)

    def chosen(self) -> Tensor:
        """int64 (B, K): see `Skim.chosen`."""
        empty = next(iter(self._has.values())).new_zeros(0, dtype=torch.int64)
        return torch.cat(self._chosen, dim=1) if self._chosen else empty.expand(len(next(iter(self._has.values()))), 0)

    def _strike(self, places: Mapping[Stream, Tensor]) -> None:
        """Moments that are not open any more, of each modality; where none is left, all are open again."""
        if self._skimmer.config.repeats:
            return
        for stream, place in places.items():
            left = self._open[stream].scatter(1, place, False)
            self._open[stream] = torch.where(left.any(dim=1, keepdim=True), left, self._has[stream])


def _gather(banks: Mapping[Stream, Tensor]) -> Reader:
    """Reads what is there already."""

    def read(places: Tensor) -> dict[Stream, Tensor]:
        return {s: bank.gather(1, places[..., None].expand(-1, -1, bank.shape[2])) for s, bank in banks.items()}

    return read


def _every(bank: Tensor, has: Tensor, every: int) -> Tensor:
    """`bank` (B, N, D) of which only each `every`-th moment was seen: linear between those, the last one after it."""
    if every == 1:
        return bank
    num, seen = bank.shape[1], torch.arange(0, bank.shape[1], every, device=bank.device)
    last = torch.where(has[:, seen], seen, -1).amax(dim=1, keepdim=True).clamp(min=0)  # (B, 1): the last that has any
    places = torch.arange(num, device=bank.device)[None]
    left = (places // every * every).minimum(last)
    right = (left + every).minimum(last)
    share = ((places - left) / every).clamp(max=1.0) * (right > left)

    def pick(where: Tensor) -> Tensor:
        return bank.gather(1, where[..., None].expand(-1, -1, bank.shape[2]))

    return torch.lerp(pick(left), pick(right), share[..., None])


def _on_rows(layers: nn.Module, bank: Tensor, has: Tensor) -> Tensor:
    """`layers` of the real moments of (B, N, D) alone; zeros elsewhere."""
    rows = layers(bank[has])  # (R, d)
    return rows.new_zeros(*bank.shape[:2], rows.shape[1]).masked_scatter(has[..., None], rows)


def _masked_softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the last dimension among `allowed`; all zeros where nothing is."""
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~allowed, lowest).softmax(dim=-1) * allowed


def _mean(vectors: Tensor, counted: Tensor) -> Tensor:
    """(B, D): the mean of (B, m, D) over those that are counted, zeros where none is."""
    shares = counted / counted.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.einsum("bm,bmd->bd", shares.to(vectors.dtype), vectors)
