"""If these fail, attention is not attention, or a stream is read through another stream's norms."""

import torch

from lookhear.models.transformer import Attention, Block, Stream


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


def test_streams_differ_only_in_their_norms() -> None:
    torch.manual_seed(0)
    block, tokens = Block(12, 3, streams=tuple(Stream)), torch.randn(2, 5, 12)
    assert torch.equal(block(tokens, Stream.AUDIO), block(tokens, Stream.JOINT))
    torch.nn.init.constant_(block.mlp_norms["audio"].weight, 2.0)
    assert not torch.equal(block(tokens, Stream.AUDIO), block(tokens, Stream.JOINT))
    assert torch.equal(block(tokens, Stream.VISUAL), block(tokens, Stream.JOINT))
    assert list(Block(12, 3).attention_norms) == ["joint"]  # no norms that nothing uses
