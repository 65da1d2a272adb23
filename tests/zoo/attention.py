"""Transformers and mixers in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .entry import Entry, real, tokens

VOCABULARY = 59
LENGTH = 7


class Attention(nn.Module):
    """Self-attention with queries, keys and values from one matrix, as in timm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = functional.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(batch, length, width)
        out: Tensor = self.proj(x)
        return out


class Block(nn.Module):
    """Attention and an MLP, each normalised first and beside a shortcut."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """ViT: patches, a class token and positions, blocks, and a head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 30, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 30))
        self.pos_embed = nn.Parameter(0.5 * torch.randn(1, 16 + 1, 30))
        self.blocks = nn.Sequential(Block(30, 5, 70), Block(30, 5, 74))
        self.norm = nn.LayerNorm(30)
        self.head = nn.Linear(30, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        logits: Tensor = self.head(x[:, 0])
        return logits


class EncoderClassifier(nn.Module):
    """nn.TransformerEncoder, which holds nn.MultiheadAttention, with learned positions."""

    def __init__(self) -> None:
        super().__init__()
        width = 28
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 4, 66, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 5)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text) * math.sqrt(self.embedding.embedding_dim)
        x = self.encoder(x + self.positions[: text.shape[1]])
        logits: Tensor = self.head(x.mean(dim=1))
        return logits


class CausalBlock(nn.Module):
    """Attention to the past with separate projections, written out."""

    mask: Tensor

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.register_buffer("mask", torch.tril(torch.ones(LENGTH, LENGTH)), persistent=False)

    def attend(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        q = self.query(x).view(b, t, self.heads, c // self.heads).transpose(1, 2)
        k = self.key(x).view(b, t, self.heads, c // self.heads).transpose(1, 2)
        v = self.value(x).view(b, t, self.heads, c // self.heads).transpose(1, 2)
        scores = q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))
        scores = scores.masked_fill(self.mask[:t, :t] == 0, float("-inf"))
        mixed = functional.softmax(scores, dim=-1) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).contiguous().view(b, t, c))
        return out

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm(x))
        out = self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return torch.add(x, out)


class TiedLanguageModel(nn.Module):
    """A causal model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        width = 24
        self.wte = nn.Embedding(VOCABULARY, width)
        self.wpe = nn.Embedding(LENGTH + 2, width)
        self.blocks = nn.ModuleList([CausalBlock(width, 3, 62), CausalBlock(width, 3, 68)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, text: Tensor) -> Tensor:
        x = self.wte(text) + self.wpe(torch.arange(text.size(1), device=text.device))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


class MixerBlock(nn.Module):
    """An MLP over the patches, then one over the channels, each beside a shortcut."""

    def __init__(self, patches: int, width: int, inner_patches: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.tokens = nn.Sequential(
            nn.Linear(patches, inner_patches), nn.GELU(), nn.Linear(inner_patches, patches)
        )
        self.norm2 = nn.LayerNorm(width)
        self.channels = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.channels(self.norm2(x))
        return out


class Mixer(nn.Module):
    """MLP-Mixer on 16 patches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 26, 4, 4)
        self.blocks = nn.Sequential(MixerBlock(16, 26, 38, 58), MixerBlock(16, 26, 42, 64))
        self.norm = nn.LayerNorm(26)
        self.head = nn.Linear(26, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(dim=1))
        return logits


class GatedFeedForward(nn.Module):
    """One matrix for gate and value, cut in two: GEGLU, or SwiGLU with SiLU."""

    def __init__(self, width: int, inner: int, activation: nn.Module) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.inner = nn.Linear(width, 2 * inner)
        self.activation = activation
        self.outer = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.inner(self.norm(x)).chunk(2, dim=-1)
        out: Tensor = x + self.outer(self.activation(gate) * value)
        return out


class GatedMLP(nn.Module):
    """Gated feed-forward layers along one residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 22)
        self.layers = nn.Sequential(
            GatedFeedForward(22, 34, nn.GELU()), GatedFeedForward(22, 46, nn.SiLU())
        )
        self.head = nn.Linear(22, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(self.stem(x)))
        return logits


class Experts(nn.Module):
    """Experts stacked in one tensor; each token takes the best two of six."""

    def __init__(self, width: int, inner: int, experts: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.w1 = nn.Parameter(torch.randn(experts, width, inner) / math.sqrt(width))
        self.w2 = nn.Parameter(torch.randn(experts, inner, width) / math.sqrt(inner))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        best, chosen = scores.topk(2, dim=-1)
        routing = torch.zeros_like(scores).scatter(-1, chosen, best.softmax(dim=-1))
        hidden = functional.silu(torch.einsum("td,edh->teh", x, self.w1))
        out = torch.einsum("teh,ehd->ted", hidden, self.w2)
        return x + torch.einsum("ted,te->td", out, routing)


class MixtureOfExperts(nn.Module):
    """Two layers of experts along one residual stream, on tokens without their neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 20)
        self.layer1 = Experts(20, 32, 6)
        self.layer2 = Experts(20, 44, 5)
        self.head = nn.Linear(20, 8)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text.flatten())
        logits: Tensor = self.head(self.layer2(self.layer1(x)))
        return torch.unflatten(logits, 0, text.shape)


def _image() -> tuple[object, ...]:
    return (real(2, 3, 16, 16),)


def _text() -> tuple[object, ...]:
    return (tokens(VOCABULARY, LENGTH),)


# The residual stream reaches every tensor but the biases of queries, keys, values and MLPs, which
# heads and hidden units move, and the head's bias, which nothing moves.
ENTRIES = (
    Entry("ViT (timm shape)", VisionTransformer, _image, 0.99),
    Entry("nn.TransformerEncoder", EncoderClassifier, _text, 0.99),
    Entry("Language model (tied head)", TiedLanguageModel, _text, 0.99),
    Entry("MLP-Mixer", Mixer, _image, 0.99),
    Entry("GEGLU and SwiGLU", GatedMLP, lambda: (real(2, 16),), 0.99),
    Entry("Mixture of experts", MixtureOfExperts, _text, 0.99),
)
