"""Text to vectors, without torch: the runtime of an exported sentence encoder.

A text is read in windows over its whole length, because a model of this kind stops reading at
its limit (256 tokens for MiniLM) and a payload may stand after it. Each window is run by itself:
dynamic int8 quantisation uses one scale for a whole batch, so a batch of more than one would let
a neighbour change a score.

Axes: W windows of a text, D dimensions of a vector.
"""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from stillwatch.data.errors import BundleError, ConfigError, InputError

MODEL_FILE = "encoder.onnx"
TOKENIZER_FILE = "tokenizer.json"
REPORT_FILE = "encoder.json"

INPUT_NAME = "input_ids"
OUTPUT_NAME = "sentence_vector"
METADATA_KEY = "stillwatch_encoder"

WINDOW_OVERLAP = 32
MAX_WINDOWS = 48
# No number of characters is sure to hold a number of tokens (a run of blanks is none). Twelve a
# token is three times what prose has; a text cut by it is reported as truncated.
CHARACTERS_PER_TOKEN = 12

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TextVectors:
    """What an encoder read of one text.

    windows: float32 (W, D), one unit vector for each window, in reading order; W is at least 1.
    tokens: content tokens read, without the model's own start and end tokens.
    truncated: True if a part of the text was not read.
    """

    windows: Vectors
    tokens: int
    truncated: bool

    @property
    def vector(self) -> Vectors:
        """The unit mean of the windows, float32 (D,)."""
        if len(self.windows) == 1:
            return cast(Vectors, self.windows[0])
        mean = self.windows.mean(axis=0, dtype=np.float64)
        norm = float(np.linalg.norm(mean))
        # Windows that cancel out have no mean direction; the first one then stands for the text.
        return cast(Vectors, (mean / norm).astype(np.float32) if norm > 1e-9 else self.windows[0])


class Encoder(Protocol):
    """Anything that turns texts into unit vectors, one result a text, in order."""

    @property
    def name(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> list[TextVectors]: ...


@dataclass(frozen=True)
class EncoderSpec:
    """What the runtime must know of an encoder; it travels in the ONNX file's metadata.

    limit: tokens the model reads at once, with the prefix and suffix tokens.
    lowercase: whether the text is lowered before the tokenizer sees it.
    """

    name: str
    dimensions: int
    limit: int
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    lowercase: bool
    pooling: str
    precision: str
    source_sha256: str

    def __post_init__(self) -> None:
        if self.content_limit <= WINDOW_OVERLAP // 2 or self.dimensions < 1:
            raise BundleError(
                f"an encoder must read more than {WINDOW_OVERLAP // 2} content tokens at once, "
                f"however: {self.content_limit}; use a model with a longer limit"
            )

    @property
    def content_limit(self) -> int:
        """Content tokens in one window."""
        return self.limit - len(self.prefix_ids) - len(self.suffix_ids)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises BundleError if a field is missing, unknown or of another type."""
        kinds: dict[str, type] = {"dimensions": int, "limit": int, "lowercase": bool}
        kinds |= {"prefix_ids": list, "suffix_ids": list}
        try:
            raw = json.loads(text)
            expected = {field.name for field in fields(cls)}
            if not isinstance(raw, dict) or set(raw) != expected:
                raise ValueError("its fields are not those of this version")
            for key, value in raw.items():
                if type(value) is not kinds.get(key, str):
                    raise ValueError(f"{key} is of type {type(value).__name__}")
            raw["prefix_ids"] = tuple(int(i) for i in raw["prefix_ids"])
            raw["suffix_ids"] = tuple(int(i) for i in raw["suffix_ids"])
        except (ValueError, TypeError) as error:
            raise BundleError(
                f"the encoder's metadata must be complete, however: {error}; export it again"
            ) from None
        return cls(**raw)


def window_starts(tokens: int, size: int, overlap: int = WINDOW_OVERLAP) -> list[int]:
    """Where the windows of a text begin, in content tokens.

    All windows are full but that of a text shorter than one; the last is moved back to end with
    the text, so that no window holds a stub of a few words.
    """
    if tokens <= size:
        return [0]
    stride = size - min(overlap, size // 2)
    count = math.ceil((tokens - size) / stride) + 1
    return [*range(0, (count - 1) * stride, stride), tokens - size]


@dataclass(frozen=True)
class ReadText:
    """The windows of one text as token ids, with the model's own start and end tokens."""

    windows: list[list[int]]
    tokens: int
    truncated: bool


class WindowReader:
    """Cuts texts into windows of token ids. The same for training and serving.

    Words such as "[SEP]" in a text are read as text: a caller must not be able to write the
    model's control tokens.
    """

    def __init__(self, tokenizer_json: bytes, spec: EncoderSpec, max_windows: int = MAX_WINDOWS):
        if max_windows < 1:
            raise ConfigError(f"max_windows must be at least 1, however: {max_windows}; raise it")
        try:
            self._tokenizer = Tokenizer.from_buffer(tokenizer_json)
        except Exception as error:  # the library raises a bare Exception
            raise BundleError(
                f"{TOKENIZER_FILE} must be a tokenizer of the tokenizers library, however: it "
                f"raised {type(error).__name__}; export the encoder again"
            ) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._spec = spec
        size = spec.content_limit
        self._max_tokens = size + (max_windows - 1) * (size - min(WINDOW_OVERLAP, size // 2))
        self._max_characters = self._max_tokens * CHARACTERS_PER_TOKEN

    def read(self, text: str) -> ReadText:
        """An empty text gives one window of the model's start and end tokens alone."""
        truncated = len(text) > self._max_characters
        if truncated:
            text = text[: self._max_characters]
        if not text.isascii():
            # Lone surrogates are not text; the tokenizer would refuse them, naming the text.
            text = text.encode("utf-8", "replace").decode("utf-8")
        if self._spec.lowercase:
            text = text.lower()
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) > self._max_tokens:
            truncated = True
            del ids[self._max_tokens :]
        size = self._spec.content_limit
        prefix, suffix = list(self._spec.prefix_ids), list(self._spec.suffix_ids)
        windows = [
            prefix + ids[start : start + size] + suffix for start in window_starts(len(ids), size)
        ]
        return ReadText(windows, len(ids), truncated)


def read_all(reader: WindowReader, texts: Sequence[str]) -> list[ReadText]:
    """Reads each text; InputError names the position, never the text, of what is no string."""
    if isinstance(texts, str):
        raise InputError("texts must be a sequence of strings, however: one string; put it in []")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"text {position} must be a string, however: {type(text).__name__}; convert it"
            )
    return [reader.read(text) for text in texts]


def assemble(read: Sequence[ReadText], vectors: Iterator[Vectors]) -> list[TextVectors]:
    """Gives each text its windows' vectors; `vectors` yields one (D,) for each window, in order.

    Raises BundleError for a vector that is not finite.
    """
    results = []
    for text in read:
        windows = np.stack([next(vectors) for _ in text.windows]).astype(np.float32, copy=False)
        if not np.isfinite(windows).all():
            raise BundleError(
                "an encoder's vectors must be finite, however: a window gave NaN or infinity; "
                "export the encoder again"
            )
        results.append(TextVectors(windows, text.tokens, text.truncated))
    return results


class OnnxEncoder:
    """An exported encoder, run by onnxruntime.

    Safe to share between threads. Results do not depend on the other texts of a call, on
    `threads`, nor on what other callers do at the same time.

    source: a folder with `encoder.onnx` and `tokenizer.json`, or the bytes of the two.
    threads: windows run at the same time; each uses one core.
    max_windows: windows read of one text; what lies beyond is reported as truncated.
    """

    def __init__(
        self,
        source: str | Path | tuple[bytes, bytes],
        *,
        threads: int = 1,
        max_windows: int = MAX_WINDOWS,
    ):
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, however: {threads}; raise it")
        model, tokenizer_json = source if isinstance(source, tuple) else _read_folder(Path(source))
        self._session = _open_session(model)
        self.spec = _read_spec(self._session)
        self._reader = WindowReader(tokenizer_json, self.spec, max_windows)
        self._pool = ThreadPoolExecutor(threads, "encoder") if threads > 1 else None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def dimensions(self) -> int:
        return self.spec.dimensions

    def encode(self, texts: Sequence[str]) -> list[TextVectors]:
        """One result a text, in order. An empty text has the vector of the model's empty input.

        Raises InputError for what is no string, BundleError if the model fails.
        """
        read = read_all(self._reader, texts)
        vectors = self.encode_windows([window for text in read for window in text.windows])
        return assemble(read, iter(vectors))

    def encode_windows(self, windows: Sequence[list[int]]) -> Vectors:
        """Vectors float32 (N, D) of token windows that hold the model's own tokens already."""
        if self._pool is None or len(windows) <= 1:
            vectors = [self._run(window) for window in windows]
        else:
            vectors = list(self._pool.map(self._run, windows))
        return np.stack(vectors) if vectors else np.empty((0, self.dimensions), np.float32)

    def close(self) -> None:
        """Ends the worker threads; `encode` must not be called afterwards."""
        if self._pool is not None:
            self._pool.shutdown()

    def _run(self, window: list[int]) -> Vectors:
        try:
            output = self._session.run(
                [OUTPUT_NAME], {INPUT_NAME: np.array([window], dtype=np.int64)}
            )[0]
        except Exception as error:  # onnxruntime's own message may hold token ids of the text
            raise BundleError(
                f"{MODEL_FILE} must run on every text, however: onnxruntime raised "
                f"{type(error).__name__}; export the encoder again"
            ) from None
        return cast(Vectors, output[0])


def _read_folder(folder: Path) -> tuple[bytes, bytes]:
    try:
        return (folder / MODEL_FILE).read_bytes(), (folder / TOKENIZER_FILE).read_bytes()
    except OSError as error:
        raise BundleError(
            f"an encoder folder must hold {MODEL_FILE} and {TOKENIZER_FILE}, however: "
            f"{error.strerror} for {error.filename}; export the encoder into it"
        ) from None


def _open_session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # The exported graph is already optimised: what was checked is what runs, and loading is fast.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class for its errors
        raise BundleError(
            f"{MODEL_FILE} must be a model for onnxruntime, however: loading it raised "
            f"{type(error).__name__}; export the encoder again"
        ) from None


def _read_spec(session: Any) -> EncoderSpec:
    metadata = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if metadata is None:
        raise BundleError(
            f"{MODEL_FILE} must carry the metadata {METADATA_KEY}, however: it has none; "
            "export the encoder with this version"
        )
    spec = EncoderSpec.from_json(metadata)
    inputs = [node.name for node in session.get_inputs()]
    outputs = {node.name: node.shape for node in session.get_outputs()}
    if inputs != [INPUT_NAME] or outputs.get(OUTPUT_NAME, [0])[-1] != spec.dimensions:
        raise BundleError(
            f"{MODEL_FILE} must map {INPUT_NAME} to {OUTPUT_NAME} of {spec.dimensions} "
            f"dimensions, however: it maps {inputs} to {outputs}; export the encoder again"
        )
    return spec
