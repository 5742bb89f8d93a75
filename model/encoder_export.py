"""From a sentence-transformers model to the files that `OnnxEncoder` runs, checked on the way.

torch -> ONNX -> fused graph (gate: fp32 parity) -> smoothed int8 (gate: cosine to fp32).

Importing this file loads no torch: a cached encoder can be used where none is installed.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stillwatch.data.errors import BundleError, ConfigError, OutputError
from stillwatch.model import encoder_graph, encoder_int8, sentence
from stillwatch.model.encoder import (
    MODEL_FILE,
    REPORT_FILE,
    TOKENIZER_FILE,
    Encoder,
    EncoderSpec,
    OnnxEncoder,
    Vectors,
    WindowReader,
)

# Part of the cache key: raise it whenever the files of an export would come out different.
EXPORT_REVISION = 2
# Largest difference of an element between fp32 ONNX and sentence-transformers.
PARITY_LIMIT = 1e-4
# Least mean cosine of int8 to fp32 over the parity texts.
COSINE_LIMIT = 0.985
# Least cosine to a golden vector. Another CPU sums in another order; int8 rounding then makes
# more of the difference than fp32 does.
GOLDEN_COSINE = {"fp32": 0.9999, "int8": 0.99}
GOLDEN_DIGITS = 5

# Every so many parity windows is used to choose the smoothing: all lengths, all languages.
_SMOOTHING_STEP = 4

CACHE_VARIABLE = "STILLWATCH_CACHE"

Precision = Literal["int8", "fp32"]
Progress = Callable[[str], None]

_SENTENCES = (
    "Please summarise the minutes of yesterday's meeting in three short points.",
    "Solve 17 * (24 - 9) and explain each step as you would to a beginner.",
    "def area(radius):\n    return 3.14159 * radius ** 2  # what is wrong with this?",
    "Schreibe eine höfliche Antwort auf die Beschwerde über die verspätete Lieferung.",
    "¿Qué diferencia hay entre un contrato de alquiler y uno de compraventa?",
    "Traduis cette phrase en italien, puis dis-moi quel temps verbal tu as choisi.",
    "请用两句话解释什么是光合作用，然后举一个例子。",
    "明日の会議の議題を三つ考えて、それぞれに短い説明をつけてください。",
    "Объясни, почему небо голубое, так, чтобы понял ребёнок семи лет.",
    "اكتب رسالة قصيرة إلى الجار تعتذر فيها عن الضوضاء.",
    "Which of these is a prime number? A) 21 B) 39 C) 53 D) 87. Answer with the letter only.",
    '{"task": "classify", "labels": ["refund", "delivery"], "text": "where is my parcel?"}',
)


@dataclass(frozen=True)
class ExportReport:
    """What an export did and measured; written to `encoder.json` beside the model.

    parity_max_abs: largest difference of fp32 ONNX to sentence-transformers (limit PARITY_LIMIT).
    cosine_mean, cosine_min: of the exported graph to fp32 ONNX over the parity texts.
    operators: how often each operator occurs in the graph that runs.
    sha256: of each file, by name.
    """

    encoder: dict[str, Any]
    parity_texts: int
    parity_max_abs: float
    cosine_mean: float
    cosine_min: float
    operators: dict[str, int]
    sha256: dict[str, str]
    versions: dict[str, str]
    revision: int = EXPORT_REVISION


def export_encoder(
    name_or_folder: str | Path,
    out_folder: str | Path,
    precision: Precision = "int8",
    progress: Progress | None = None,
) -> ExportReport:
    """Writes `encoder.onnx`, `tokenizer.json` and `encoder.json` into `out_folder`.

    Raises BundleError if a gate fails, ConfigError for a model that is not supported, MissingError
    without the training extra, OutputError if the folder cannot be written.
    """
    if precision not in GOLDEN_COSINE:
        raise ConfigError(f"precision must be int8 or fp32, however: {precision!r}; choose one")
    say = progress or (lambda _: None)
    out = Path(out_folder)
    say("loading the model")
    source = sentence.find_model(name_or_folder)
    model = sentence.load_model(source)
    spec = sentence.spec_of(model, source, sentence.encoder_name(name_or_folder), "fp32")
    tokenizer = sentence.tokenizer_json_of(model)
    windows = parity_windows(spec, tokenizer)
    reference = _torch_vectors(model, windows)
    say("exporting to ONNX")
    traced = encoder_graph.trace(model, spec)
    say("fusing the graph")
    fused = encoder_graph.fuse(traced, spec)
    fp32 = OnnxEncoder((encoder_graph.finish(fused, spec), tokenizer))
    say("comparing with sentence-transformers")
    difference = _check_parity(model, fp32, windows, reference)
    result, graph = fp32, encoder_graph.finish(fused, spec)
    if precision == "int8":
        say("quantising to int8")
        spec = replace(spec, precision="int8")
        smoothed = encoder_int8.smooth(fused, windows[::_SMOOTHING_STEP])
        graph = encoder_graph.finish(encoder_int8.quantise(smoothed), spec)
        result = OnnxEncoder((graph, tokenizer))
    cosines = np.sum(result.encode_windows(windows) * fp32.encode_windows(windows), axis=1)
    if not cosines.mean() >= COSINE_LIMIT:
        raise BundleError(
            f"the {precision} encoder must have a mean cosine of {COSINE_LIMIT} to fp32, "
            f"however: {cosines.mean():.4f}; export it with precision fp32"
        )
    files = {MODEL_FILE: graph, TOKENIZER_FILE: tokenizer}
    report = ExportReport(
        encoder=asdict(spec),
        parity_texts=len(windows),
        parity_max_abs=difference,
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        operators=encoder_graph.operators(graph),
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        versions=_versions("torch", "sentence-transformers", "transformers", "onnx", "onnxscript"),
    )
    files[REPORT_FILE] = (json.dumps(asdict(report), indent=2) + "\n").encode("utf-8")
    _write(out, files)
    return report


def cached_encoder(
    name_or_folder: str | Path = sentence.DEFAULT_ENCODER,
    precision: Precision = "int8",
    progress: Progress | None = None,
) -> Path:
    """The folder of an exported encoder, exported on first use.

    It lies in `$STILLWATCH_CACHE/encoders`, by default `~/.cache/stillwatch/encoders`, under a
    name that holds the source's hash, the precision and the versions of what runs it. Two
    processes may ask at once: each exports into a folder of its own, the first to finish wins.

    Raises MissingError if nothing is cached and the training extra is not installed.
    """
    is_default = name_or_folder == sentence.DEFAULT_ENCODER
    # The default's weights are pinned, so its cache is found without the package that holds them.
    source = None if is_default else sentence.find_model(name_or_folder)
    digest = sentence.DEFAULT_SHA256 if source is None else _folder_digest(source)
    key = [digest, precision, EXPORT_REVISION, _versions()]
    short = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    root = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "stillwatch")
    name = sentence.encoder_name(name_or_folder)
    folder = root / "encoders" / f"{name}-{precision}-{short}"
    if _is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=folder.parent))
    except OSError as error:
        raise OutputError(
            f"the encoder cache must be writable, however: {error.strerror} for "
            f"{error.filename}; set {CACHE_VARIABLE} to a folder that is"
        ) from None
    try:
        export_encoder(name_or_folder, scratch, precision, progress)
        scratch.chmod(0o755)  # a scratch folder is private, a cache may be shared
        _put_in_place(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def golden_texts() -> list[str]:
    """Texts of many languages and lengths, an empty one and one of several windows among them."""
    return [*_SENTENCES, "", " ".join(_SENTENCES * 3)]


def golden_vectors(encoder: Encoder) -> list[list[float]]:
    """The encoder's vectors of `golden_texts`, rounded, to be stored as JSON."""
    results = encoder.encode(golden_texts())
    return [[round(float(x), GOLDEN_DIGITS) for x in result.vector] for result in results]


def check_golden(
    encoder: OnnxEncoder, golden: Sequence[Sequence[float]], least_cosine: float | None = None
) -> float:
    """The least cosine between the encoder's vectors and the stored ones.

    Raises BundleError if it is below `least_cosine`, by default GOLDEN_COSINE of the precision.
    """
    limit = GOLDEN_COSINE[encoder.spec.precision] if least_cosine is None else least_cosine
    found = np.stack([result.vector for result in encoder.encode(golden_texts())])
    stored = np.asarray(golden, dtype=np.float64)
    if stored.shape != found.shape:
        raise BundleError(
            f"golden vectors must be of shape {found.shape}, however: {stored.shape}; build the "
            "bundle again with this encoder"
        )
    norms = np.maximum(np.linalg.norm(stored, axis=1), 1e-9)
    least = float(np.min(np.sum(found * stored, axis=1) / norms))
    if not least >= limit:
        raise BundleError(
            f"the encoder must give its golden vectors with a cosine of {limit}, however: "
            f"{least:.5f}; the files do not belong together, export the encoder again"
        )
    return least


def parity_windows(spec: EncoderSpec, tokenizer_json: bytes, count: int = 64) -> list[list[int]]:
    """Token windows of `count` lengths, from one content token to the limit, in many languages."""
    reader = WindowReader(tokenizer_json, spec)
    size = spec.content_limit
    windows = []
    for i in range(count):
        order = _SENTENCES[i % len(_SENTENCES) :] + _SENTENCES[: i % len(_SENTENCES)]
        window = reader.read(" ".join(order * (1 + size // 64))).windows[0]
        content = window[len(spec.prefix_ids) : len(window) - len(spec.suffix_ids)]
        length = 1 + round(i * (size - 1) / (count - 1))
        windows.append([*spec.prefix_ids, *content[:length], *spec.suffix_ids])
    return windows


def _torch_vectors(model: Any, windows: Sequence[Sequence[int]]) -> Vectors:
    """What sentence-transformers gives, float32 (N, D), in padded batches of several sizes."""
    vectors, start = [], 0
    for size in (1, 2, 5, 8, 16, 32):
        chosen = windows[start : start + size]
        start += size
        if chosen:
            vectors.append(sentence.encode_ids(model, chosen))
    return np.concatenate(vectors)


def _check_parity(
    model: Any, fp32: OnnxEncoder, windows: Sequence[list[int]], reference: Vectors
) -> float:
    """The largest difference of the fp32 graph to torch. Raises BundleError above PARITY_LIMIT."""
    found = fp32.encode_windows(windows)
    difference = float(np.max(np.abs(found - reference)))
    texts = list(_SENTENCES)
    whole = np.stack([result.windows[0] for result in fp32.encode(texts)])
    expected = model.encode(texts, batch_size=5, normalize_embeddings=True, show_progress_bar=False)
    from_text = float(np.max(np.abs(whole - expected)))
    largest = max(difference, from_text)
    # Written so that NaN fails.
    if not largest <= PARITY_LIMIT:
        raise BundleError(
            f"the exported encoder must be within {PARITY_LIMIT} of sentence-transformers, "
            f"however: the largest difference is {difference:.2e} over token windows and "
            f"{from_text:.2e} over whole texts; choose another model"
        )
    return largest


def _versions(*more: str) -> dict[str, str]:
    """Versions of what runs an encoder, and of what else is named."""
    return {name: metadata.version(name) for name in ("onnxruntime", "tokenizers", *more)}


def _folder_digest(folder: Path) -> str:
    """One hash over the names and contents of what makes up a model."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix in {".json", ".safetensors", ".txt"})
    lines = [f"{path.relative_to(folder).as_posix()} {sentence.sha256_of(path)}" for path in paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_complete(folder: Path) -> bool:
    """True if all files are there and are those that the export wrote."""
    try:
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        expected = {name: report["sha256"][name] for name in (MODEL_FILE, TOKENIZER_FILE)}
        return all(sentence.sha256_of(folder / name) == sha for name, sha in expected.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _put_in_place(scratch: Path, folder: Path) -> None:
    for _ in range(2):
        with contextlib.suppress(OSError):
            scratch.rename(folder)
            return
        if _is_complete(folder):
            return
        # Damaged, for nothing but a whole folder is ever renamed to this name.
        shutil.rmtree(folder, ignore_errors=True)
    raise OutputError(
        f"the encoder cache must be writable, however: {folder.name} could not be replaced; "
        f"delete it, or set {CACHE_VARIABLE} to another folder"
    )


def _write(out: Path, files: dict[str, bytes]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (out / name).write_bytes(data)
    except OSError as error:
        raise OutputError(
            f"the encoder's folder must be writable, however: {error.strerror} for "
            f"{error.filename}; choose another folder"
        ) from None
