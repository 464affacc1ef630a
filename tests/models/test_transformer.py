"""If these fail, attention is not attention, or a stream is read through another stream's norms."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from lookhear.models.transformer import Attention, Block, Stream, attend, attend_in_pieces


def test_attention_equals_the_slow_form() -> None:
    torch.manual_seed(0)
    attention, tokens = Attention(12, 3), torch.randn(2, 5, 12)
    query, key, value = attention.qkv(tokens).split(12, dim=2)
    parts = []
    for head in range(3):
        own = slice(4 * head, 4 * head + 4)
        weights = (query[..., own] @ key[..., own].transpose(1, 2) / 4**0.5).softmax(-1)
        parts.append(weights @ value[..., own])
    torch.testing.assert_close(attention(tokens), attention.out(torch.cat(parts, dim=2)))


@pytest.mark.parametrize(
    ("form", "dtype", "tolerance"),
    [
        (attend, torch.float32, 1e-5),
        (attend, torch.bfloat16, 0.1),
        (attend_in_pieces, torch.float32, 1e-5),
        (attend_in_pieces, torch.bfloat16, 0.1),
    ],
)
@pytest.mark.parametrize(("length", "piece_bytes"), [(7, 1), (7, 3 * 7 * 7 * 4), (60, 4 << 20)])
def test_every_form_of_attention_is_the_slow_one(
    form: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    tolerance: float,
    length: int,
    piece_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forward and backward, in pieces of one head, of three (of eight heads), and whole."""
    monkeypatch.setattr("lookhear.models.transformer.PIECE_BYTES", piece_bytes)
    torch.manual_seed(0)
    wanted_qkv = torch.randn(2, length, 3, 4, 8, requires_grad=True)
    query, key, value = wanted_qkv.permute(2, 0, 3, 1, 4).unbind(0)
    wanted = ((query @ key.transpose(2, 3) / 8**0.5).softmax(3) @ value).transpose(1, 2)
    weights = torch.randn_like(wanted)
    (wanted * weights).sum().backward()
    qkv = wanted_qkv.detach().to(dtype).requires_grad_()
    found = form(qkv)
    torch.testing.assert_close(found.float(), wanted, atol=tolerance, rtol=tolerance)
    (found.float() * weights).sum().backward()
    torch.testing.assert_close(qkv.grad.float(), wanted_qkv.grad, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("rows", "length"), [(0, 5), (1, 1), (1, 7), (3, 60)])
@pytest.mark.parametrize("surroundings", [torch.no_grad, torch.inference_mode])
def test_without_gradients_pieces_are_the_same_numbers(
    surroundings: Callable[[], AbstractContextManager], rows: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No weights are kept for a backward pass, so any length is taken in pieces; also under autocast, as embedding
    does."""
    monkeypatch.setattr("lookhear.models.transformer.PIECE_BYTES", 3 * 7 * 7 * 2)
    monkeypatch.setattr("lookhear.models.transformer.KEPT_BYTES", 0)
    torch.manual_seed(0)
    qkv = torch.randn(rows, length, 3, 4, 8).bfloat16()
    wanted = attend_in_pieces(qkv)  # with gradients
    fused = Mock(side_effect=torch.nn.functional.scaled_dot_product_attention)
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", fused)
    with surroundings(), torch.autocast("cpu", torch.bfloat16):
        found = attend(qkv)
    assert torch.equal(found, wanted)
    assert found.shape == (rows, length, 4, 8)
    assert not fused.called
    attend(qkv)  # what a backward pass needs would be more than is kept
    assert fused.called == (rows > 0)


def test_streams_side_by_side_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    block = Block(12, 3, streams=tuple(Stream))
    for norm in (*block.attention_norms.values(), *block.mlp_norms.values()):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    parts = {stream: torch.randn(2, length, 12) for stream, length in zip(Stream, (5, 3, 4), strict=True)}
    together = block(torch.cat(list(parts.values()), dim=1), {stream: x.shape[1] for stream, x in parts.items()})
    alone = [block(tokens, stream) for stream, tokens in parts.items()]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)


def test_streams_differ_only_in_their_norms() -> None:
    torch.manual_seed(0)
    block, tokens = Block(12, 3, streams=tuple(Stream)), torch.randn(2, 5, 12)
    assert torch.equal(block(tokens, Stream.AUDIO), block(tokens, Stream.JOINT))
    torch.nn.init.constant_(block.mlp_norms["audio"].weight, 2.0)
    assert not torch.equal(block(tokens, Stream.AUDIO), block(tokens, Stream.JOINT))
    assert torch.equal(block(tokens, Stream.VISUAL), block(tokens, Stream.JOINT))
    assert list(Block(12, 3).attention_norms) == ["joint"]  # no norms that nothing uses
