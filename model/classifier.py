"""The sequence classifier: causal transformers whose attention is a recurrence of fixed size.

Each layer is linear attention (Katharopoulos et al. 2020, arXiv 2006.16236) with a decay for each
head (Sun et al. 2023, arXiv 2307.08621) and an input gate, so that rare evidence can outweigh much
ordinary traffic. In training it runs in parallel over a stream; in serving one step costs the
same for the first and the millionth event.

Several members with weights of their own read the same stream and their logits are averaged (a
deep ensemble, Lakshminarayanan et al. 2017, arXiv 1612.01474): what one member takes an unseen
product for by chance the others seldom do. They lie side by side in each array, so that they cost
few more operations than one.

Axis letters: M members, B streams, T events, F features, I intents, L layers, H heads, K keys,
V values.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of the classifier, each member's. `features` and `intents` follow from the data."""

    features: int
    intents: int
    members: int = 4
    width: int = 64
    layers: int = 1
    heads: int = 4
    key: int = 4
    dropout: float = 0.1

    def to_fields(self) -> dict[str, int | float]:
        return asdict(self)

    @property
    def state_shape(self) -> tuple[int, int, int, int]:
        """(LM, H, K, V + 1): numerators of the attention and, last, its denominator; the members
        of each layer side by side."""
        values = self.width // self.heads
        return self.layers * self.members, self.heads, self.key, values + 1


# How much of the past a head still sees after one more event, from the whole stream (bounded, so
# that sums stay finite over millions of events) to the last few.
_CHUNK = 32
_DECAYS = (1 - 1e-4, 1 - 1 / 128, 1 - 1 / 32, 1 - 1 / 8)


class Linear(nn.Module):
    """A linear map of each member: (M or 1, ..., in) -> (M, ..., out). Starts as `nn.Linear`."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        found = torch.matmul(x.flatten(1, -2), self.weight) + self.bias
        return found.unflatten(1, x.shape[1:-1])


class Norm(nn.Module):
    """Layer normalisation of each member: (M, ..., width), as large."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        normal = functional.layer_norm(x, x.shape[-1:])
        return (normal.flatten(1, -2) * self.weight + self.bias).unflatten(1, x.shape[1:-1])


class LinearAttention(nn.Module):
    """Causal attention with decay and input gate."""

    log_decay: Tensor

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        members, width = config.members, config.width
        self.heads, self.key, self.value = config.heads, config.key, width // config.heads
        self.query_key = Linear(members, width, 2 * config.heads * config.key)
        self.values = Linear(members, width, width)
        self.gate = Linear(members, width, config.heads)
        self.out = Linear(members, width, width)
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
        return cast(Tensor, self.out(mixed.flatten(-2)))

    def forward(self, x: Tensor) -> Tensor:
        """(M, B, T, width) -> (M, B, T, width); position t sees positions up to t.

        In chunks (as in arXiv 2307.08621): pairs of positions within a chunk, and before it the
        state that `step` would have reached, so that the cost grows with T and not with its
        square."""
        length = x.shape[2]
        query, key, value = (
            functional.pad(part, (0, 0, 0, 0, 0, -length % _CHUNK)).unflatten(2, (-1, _CHUNK))
            for part in self._project(x)
        )
        steps = torch.arange(_CHUNK, device=x.device)
        distance = steps[:, None] - steps[None, :]
        within = self._decayed(distance.clamp(min=0)) * (distance >= 0)
        scores = torch.einsum("mbnthk,mbnshk->mbnhts", query, key) * within
        read = torch.einsum("mbnhts,mbnshv->mbnthv", scores, value)

        left = self._decayed(_CHUNK - 1 - steps).T.unsqueeze(-1)
        added = torch.einsum("mbnshk,mbnshv->mbnhkv", key * left, value)
        kept = self._decayed(torch.tensor(_CHUNK))[:, None, None]
        states = [torch.zeros_like(added[:, :, 0])]
        for chunk in added.unbind(2)[:-1]:
            states.append(states[-1] * kept + chunk)
        seen = query * self._decayed(steps + 1).T.unsqueeze(-1)
        before = torch.stack(states, dim=2)
        read = read + torch.einsum("mbnthk,mbnhkv->mbnthv", seen, before)
        return self._read(read.flatten(2, 3)[:, :, :length])

    def _decayed(self, steps: Tensor) -> Tensor:
        """What is left after so many steps (...), by head (H, ...)."""
        return torch.exp(self.log_decay.view(-1, *[1] * steps.ndim) * steps)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(M, B, width), state (M, B, H, K, V+1) -> (M, B, width), next state."""
        query, key, value = self._project(x)
        state = state * torch.exp(self.log_decay)[:, None, None] + key.unsqueeze(
            -1
        ) * value.unsqueeze(-2)
        return self._read((query.unsqueeze(-1) * state).sum(dim=-2)), state


def _two_layers(members: int, inputs: int, hidden: int, width: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        Linear(members, inputs, hidden), nn.GELU(), nn.Dropout(dropout),
        Linear(members, hidden, width),
    )  # fmt: skip


class Block(nn.Module):
    """Attention and a feed-forward layer, each on a normalised residual stream."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        members, width = config.members, config.width
        self.attention_norm = Norm(members, width)
        self.attention = LinearAttention(config)
        self.feed_norm = Norm(members, width)
        self.feed = _two_layers(members, width, 2 * width, width, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + cast(Tensor, self.dropout(self.feed(self.feed_norm(x))))

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
        members, width = config.members, config.width
        self.register_buffer("feature_mean", torch.zeros(config.features))
        self.register_buffer("feature_scale", torch.ones(config.features))
        self.embed = _two_layers(members, config.features, 2 * width, width, config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(members, width)
        self.head = Linear(members, width, 1 + 2 * config.intents)

    def set_scale(self, mean: Tensor, deviation: Tensor) -> None:
        """Standardise features by these, each (F,); a constant feature is left out."""
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(
            torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), torch.zeros(()))
        )

    def _standardise(self, features: Tensor) -> Tensor:
        return ((features - self.feature_mean) * self.feature_scale).clamp(-6, 6)

    def each(self, features: Tensor) -> Tensor:
        """(B, T, F) float32 -> (M, B, T, 1 + 2I): every member's logits, which are trained."""
        x = self.embed(self._standardise(features)[None])
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.head(self.norm(x)))

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, F) float32 -> (B, T, 1 + 2I), the members' mean. Streams are padded at the end:
        what follows an event never changes its output, so no mask is needed."""
        return self.each(features).mean(dim=0)

    def step(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) and (B, LM, H, K, V+1) -> (B, 1 + 2I) and the next state."""
        x = self.embed(self._standardise(features)[None])
        layers = state.transpose(0, 1).split(self.config.members)
        states = []
        for block, own in zip(self.blocks, layers, strict=True):
            x, after = cast(Block, block).step(x, own)
            states.append(after)
        return self.head(self.norm(x)).mean(dim=0), torch.cat(states).transpose(0, 1)

    def initial_state(self, streams: int) -> Tensor:
        """Zeros (B, LM, H, K, V+1)."""
        return torch.zeros(streams, *self.config.state_shape)
