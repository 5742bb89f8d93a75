"""Linear heads that read one text: what does it ask for?

Two places are read with heads of their own: the frame (what is asked for) and the slot (what it is
asked about). Each has a head on character n-grams, and the slot one on the sentence vector too. A
frame in words that no one has seen is told better by its n-grams alone. The heads are the
bottleneck before the sequence model: it sees these logits and never the vector, so that it cannot
learn the content of its training sources by heart.

Axis letters: N texts, D dimensions of the encoder, C classes, P dimensions of the projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from stillwatch.data.errors import BundleError
from stillwatch.model.lexical import BUCKETS

PLACES = ("frame", "slot")
ANY_INTENT = "any_intent"
ORDINARY_CLASSES = ("person", "product", "judge")
PROJECTION = 64


def class_names(intents: tuple[str, ...]) -> tuple[str, ...]:
    """The heads' classes: the intents in order, any of them, then kinds of ordinary text."""
    return (*intents, ANY_INTENT, *ORDINARY_CLASSES)


def projection_matrix(dimensions: int, seed: int = 7) -> np.ndarray:
    """A random orthonormal map to PROJECTION dimensions, float32 (D, P). It keeps cosines well
    enough to compare an event with the account's own past, at a sixth of the memory."""
    gaussian = np.random.default_rng(seed).standard_normal((dimensions, PROJECTION))
    orthonormal, _ = np.linalg.qr(gaussian)
    return (orthonormal * np.sqrt(dimensions / PROJECTION)).astype(np.float32)


def salience_row(ids: np.ndarray, salience: np.ndarray) -> np.ndarray:
    """What each of a text's n-grams counts, float32 of the shape of `ids` and of unit length.

    salience: (BUCKETS,), how rare each n-gram is and how differently classes use it.
    """
    row = salience[ids].astype(np.float32)
    return np.asarray(row / max(float(np.sqrt(row @ row)), 1e-6))


@dataclass(frozen=True)
class IntentHeads:
    """Weights of the heads. A leading axis of 2 is the place, in the order of PLACES.

    dense_weight (D, C) and dense_bias (C,) float32, of slots; lexical_weight (2, BUCKETS, C)
    float16 and lexical_bias (2, C) float32; salience (2, BUCKETS) float16: what each n-gram counts
    before it is weighed; projection (D, P) float32.
    """

    dense_weight: np.ndarray
    dense_bias: np.ndarray
    lexical_weight: np.ndarray
    lexical_bias: np.ndarray
    salience: np.ndarray
    projection: np.ndarray

    @property
    def dimensions(self) -> int:
        return int(self.dense_weight.shape[0])

    @property
    def class_count(self) -> int:
        return int(self.dense_weight.shape[1])

    @property
    def any_intent(self) -> int:
        """The column of ANY_INTENT among the classes."""
        return self.class_count - len(ORDINARY_CLASSES) - 1

    def dense_logits(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) unit vectors of slots -> (N, C) logits."""
        return np.asarray(vectors @ self.dense_weight + self.dense_bias)

    def lexical_logits(self, chunks: list[np.ndarray], place: int) -> np.ndarray:
        """Bucket ids of each stretch of one text -> (C,) logits, of the stretch that reads most
        like any intent."""
        table, salience = self.lexical_weight[place], self.salience[place]
        rows = [salience_row(ids, salience) @ table[ids].astype(np.float32) for ids in chunks]
        strongest = max(rows, key=lambda row: row[self.any_intent])
        return np.asarray(strongest + self.lexical_bias[place])

    def to_bytes(self) -> bytes:
        """The contents of heads.safetensors."""
        return save_tensors(self.tensors())

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in _FIELDS}

    @classmethod
    def from_bytes(cls, content: bytes, dimensions: int, classes: int) -> IntentHeads:
        """Read what `to_bytes` gave; BundleError unless every array has its shape and is finite."""
        try:
            tensors = load_tensors(content)
        except Exception as error:
            raise BundleError(
                f"heads.safetensors must be a safetensors file, however: {type(error).__name__}; "
                "take the bundle from its source again"
            ) from error
        return cls.from_tensors(tensors, dimensions, classes)

    @classmethod
    def from_tensors(
        cls,
        tensors: dict[str, np.ndarray],
        dimensions: int,
        classes: int,
        file: str = "heads.safetensors",
    ) -> IntentHeads:
        """Heads of these arrays; BundleError, naming the file they came from, unless every array
        has its shape and is finite."""
        expected = {
            "dense_weight": (dimensions, classes),
            "dense_bias": (classes,),
            "lexical_weight": (2, BUCKETS, classes),
            "lexical_bias": (2, classes),
            "salience": (2, BUCKETS),
            "projection": (dimensions, PROJECTION),
        }
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if found != expected:
            raise BundleError(
                f"{file} must hold {expected}, however: {found}; "
                "take the bundle from its source again"
            )
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                raise BundleError(
                    f"{file} must hold finite numbers, however: {name} does not; "
                    "take the bundle from its source again"
                )
        return cls(**tensors)


_FIELDS = ("dense_weight", "dense_bias", "lexical_weight", "lexical_bias", "salience", "projection")
