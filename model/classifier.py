"""The sequence classifier: a causal transformer whose attention is a recurrence of fixed size.

Each layer is linear attention (Katharopoulos et al. 2020, arXiv 2006.16236) with a decay for each
head (Sun et al. 2023, arXiv 2307.08621) and an input gate, so that rare evidence can outweigh much
ordinary traffic. In training it runs in parallel over a stream; in serving one step costs the
same for the first and the millionth event.

Axis letters: B streams, T events, F features, I intents, L layers, H heads, K keys, V values.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of the classifier. `features` and `intents` follow from the data."""

    features: int
    intents: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    key: int = 8
    dropout: float = 0.1

    def to_fields(self) -> dict[str, int | float]:
        return asdict(self)

    @property
    def state_shape(self) -> tuple[int, int, int, int]:
        """(L, H, K, V + 1): numerators of the attention and, last, its denominator."""
        return self.layers, self.heads, self.key, self.width // self.heads + 1


# How much of the past a head still sees after one more event, from the whole stream (bounded, so
# that sums stay finite over millions of events) to the last few.
_DECAYS = (1 - 1e-4, 1 - 1 / 128, 1 - 1 / 32, 1 - 1 / 8)


class LinearAttention(nn.Module):
    """Causal attention with decay and input gate."""

    log_decay: Tensor

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.heads, self.key = config.heads, config.key
        self.value = config.width // config.heads
        self.query_key = nn.Linear(config.width, 2 * config.heads * config.key)
        self.values = nn.Linear(config.width, config.width)
        self.gate = nn.Linear(config.width, config.heads)
        self.out = nn.Linear(config.width, config.width)
        decays = [_DECAYS[head % len(_DECAYS)] for head in range(config.heads)]
        self.register_buffer("log_decay", torch.log(torch.tensor(decays)), persistent=False)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., width) -> queries and keys (..., H, K), values with a one (..., H, V+1)."""
        query, key = self.query_key(x).chunk(2, dim=-1)
        query = functional.elu(query.unflatten(-1, (self.heads, self.key))) + 1
        key = functional.elu(key.unflatten(-1, (self.heads, self.key))) + 1
        key = key * torch.sigmoid(self.gate(x)).unsqueeze(-1)
        value = self.values(x).unflatten(-1, (self.heads, self.value))
        return query, key, torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)

    def _read(self, weighted: Tensor) -> Tensor:
        """Numerators and denominator (..., H, V+1) -> (..., width)."""
        mixed = weighted[..., :-1] / (weighted[..., -1:] + 1e-4)
        return self.out(mixed.flatten(-2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width); position t sees positions up to t."""
        query, key, value = self._project(x)
        steps = torch.arange(x.shape[1], device=x.device)
        distance = steps[:, None] - steps[None, :]
        decay = torch.exp(self.log_decay[:, None, None] * distance.clamp(min=0))
        decay = decay * (distance >= 0)
        scores = torch.einsum("bthk,bshk->bhts", query, key) * decay
        return self._read(torch.einsum("bhts,bshv->bthv", scores, value))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, width), state (B, H, K, V+1) -> (B, width), next state."""
        query, key, value = self._project(x)
        state = state * torch.exp(self.log_decay)[:, None, None] + key.unsqueeze(
            -1
        ) * value.unsqueeze(-2)
        return self._read((query.unsqueeze(-1) * state).sum(dim=-2)), state


class Block(nn.Module):
    """Attention and a feed-forward layer, each on a normalised residual stream."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = LinearAttention(config)
        self.feed_norm = nn.LayerNorm(config.width)
        self.feed = nn.Sequential(
            nn.Linear(config.width, 2 * config.width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * config.width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.feed(self.feed_norm(x)))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        mixed, state = self.attention.step(self.attention_norm(x), state)
        x = x + mixed
        return x + self.feed(self.feed_norm(x)), state


class Classifier(nn.Module):
    """Features of a stream -> logits at each event: risk, intents, and the event's own evidence.

    Output columns, 1 + 2I: the stream's risk, the stream's intents, the event's intents.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("feature_mean", torch.zeros(config.features))
        self.register_buffer("feature_scale", torch.ones(config.features))
        self.embed = nn.Sequential(
            nn.Linear(config.features, 2 * config.width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * config.width, config.width),
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 1 + 2 * config.intents)

    def set_scale(self, mean: Tensor, deviation: Tensor) -> None:
        """Standardise features by these, each (F,); a constant feature is left out."""
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(
            torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), torch.zeros(()))
        )

    def _standardise(self, features: Tensor) -> Tensor:
        return ((features - self.feature_mean) * self.feature_scale).clamp(-6, 6)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, F) float32 -> (B, T, 1 + 2I). Streams are padded at the end: what follows an
        event never changes its output, so no mask is needed."""
        x = self.embed(self._standardise(features))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def step(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) and (B, L, H, K, V+1) -> (B, 1 + 2I) and the next state."""
        x = self.embed(self._standardise(features))
        states = []
        for layer, block in enumerate(self.blocks):
            x, layer_state = cast(Block, block).step(x, state[:, layer])
            states.append(layer_state)
        return self.head(self.norm(x)), torch.stack(states, dim=1)

    def initial_state(self, streams: int) -> Tensor:
        """Zeros (B, L, H, K, V+1)."""
        return torch.zeros(streams, *self.config.state_shape)
