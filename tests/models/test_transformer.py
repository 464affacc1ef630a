"""If these fail, attention is not attention, or a stream is read through another stream's norms."""

import pytest
import torch

from lookhear.models.transformer import Attention, Block, Stream, attend


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


@pytest.mark.parametrize("length", [7, 300])
def test_both_forms_of_attention_are_equal_forward_and_backward(length: int) -> None:
    """Short bfloat16 sequences train through the plain form, everything else through the fused one."""
    torch.manual_seed(0)
    whole = [torch.randn(2, 2, length, 8, requires_grad=True) for _ in range(3)]
    half = [part.detach().bfloat16().requires_grad_() for part in whole]
    wanted = (whole[0] @ whole[1].transpose(2, 3) / 8**0.5).softmax(3) @ whole[2]
    wanted.square().sum().backward()
    for parts, tolerance in ((whole, 1e-5), (half, 0.1)):
        fresh = [part.detach().requires_grad_() for part in parts]
        mixed = attend(*fresh)
        torch.testing.assert_close(mixed.float(), wanted.detach(), atol=tolerance, rtol=tolerance)
        mixed.float().square().sum().backward()
        for part, reference in zip(fresh, whole, strict=True):
            torch.testing.assert_close(part.grad.float(), reference.grad, atol=2 * tolerance, rtol=2 * tolerance)


def test_streams_differ_only_in_their_norms() -> None:
    torch.manual_seed(0)
    block, tokens = Block(12, 3, streams=tuple(Stream)), torch.randn(2, 5, 12)
    assert torch.equal(block(tokens, Stream.AUDIO), block(tokens, Stream.JOINT))
    torch.nn.init.constant_(block.mlp_norms["audio"].weight, 2.0)
    assert not torch.equal(block(tokens, Stream.AUDIO), block(tokens, Stream.JOINT))
    assert torch.equal(block(tokens, Stream.VISUAL), block(tokens, Stream.JOINT))
    assert list(Block(12, 3).attention_norms) == ["joint"]  # no norms that nothing uses
