"""How fast texts become vectors on one core: this project's runtime beside the alternatives.

    python benchmarks/encoder.py --texts 200 --rounds 5 --json encoder.json

All candidates get the same texts in the same process, one thread each, in turn, round by round;
the figure is the median round. Texts are whole calls: tokenising is timed, loading is not. The
texts come from the corpora if they are there ($STILLWATCH_CORPORA or --corpora), else from
sentences of the project's own; only texts within one window, 45 tokens on average.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from stillwatch.data.corpora import corpora_dir, read_corpora
from stillwatch.model.encoder import TOKENIZER_FILE, OnnxEncoder
from stillwatch.model.encoder_export import cached_encoder, golden_texts
from stillwatch.model.sentence import DEFAULT_ENCODER, find_model, load_model

MEAN_TOKENS = 45
GOAL = 2.5
BASELINE = "sentence-transformers fp32"
OURS = "stillwatch int8"

Run = Callable[[Sequence[str]], np.ndarray]


def sample_texts(count: int, corpora: Path | None, tokens: Callable[[str], int]) -> list[str]:
    """Texts of one window, drawn evenly from the sources, MEAN_TOKENS on average."""
    rng = random.Random(0)
    if corpora is None:
        pool = [" ".join(rng.choices(golden_texts()[:12], k=1 + i % 4)) for i in range(4 * count)]
    else:
        sources = [source.prompts for source in read_corpora(corpora, limit=400)]
        pool = [rng.choice(rng.choice(sources)).text for _ in range(4 * count)]
    sized = [(text, tokens(text)) for text in pool]
    sized = [(text, n) for text, n in sized if 3 <= n <= 250]
    chosen: list[str] = []
    total = 0
    for text, n in sized:
        # Keeps the running mean at the target: a long text only while the mean is below it.
        if len(chosen) < count and (n <= MEAN_TOKENS) == (total > MEAN_TOKENS * len(chosen)):
            chosen.append(text)
            total += n
    return chosen


def candidates(name: str) -> dict[str, Run]:
    """Each as a function from texts to unit vectors (N, D)."""
    import torch

    torch.set_num_threads(1)
    model = load_model(find_model(name))
    fp32 = OnnxEncoder(cached_encoder(name, "fp32", _note))
    int8 = OnnxEncoder(cached_encoder(name, "int8", _note))

    def sentence_transformers(texts: Sequence[str]) -> np.ndarray:
        return np.asarray(
            model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        )

    def bfloat16(texts: Sequence[str]) -> np.ndarray:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            vectors = model.encode(
                list(texts),
                batch_size=32,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_tensor=True,
            )
        return np.asarray(vectors.float())

    def onnx(encoder: OnnxEncoder) -> Run:
        return lambda texts: np.stack([result.vector for result in encoder.encode(texts)])

    return {
        BASELINE: sentence_transformers,
        "sentence-transformers bf16": bfloat16,
        "onnxruntime fp32": onnx(fp32),
        OURS: onnx(int8),
    }


def measure(runs: dict[str, Run], texts: Sequence[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds a text, speed against the baseline, cosine to the baseline."""
    reference = runs[BASELINE](texts)
    times: dict[str, list[float]] = {name: [] for name in runs}
    cosines = {name: np.sum(run(texts) * reference, axis=1) for name, run in runs.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(texts)
            times[name].append((time.perf_counter() - start) / len(texts) * 1000)
    base = statistics.median(times[BASELINE])
    return {
        name: {
            "ms_per_text": statistics.median(taken),
            "ms_fastest": min(taken),
            "ms_slowest": max(taken),
            "times_baseline": base / statistics.median(taken),
            "cosine_mean": float(cosines[name].mean()),
            "cosine_min": float(cosines[name].min()),
        }
        for name, taken in times.items()
    }


def cold_start_s(folder: Path) -> float:
    """Median seconds from a fresh interpreter to the first vector, imports and loading included."""
    code = (
        "import sys, time; start = time.perf_counter(); "
        "from stillwatch.model.encoder import OnnxEncoder; "
        "OnnxEncoder(sys.argv[1]).encode(['first text']); print(time.perf_counter() - start)"
    )
    with tempfile.TemporaryDirectory() as elsewhere:
        times = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code, str(folder)],
                    capture_output=True,
                    text=True,
                    check=True,
                    cwd=elsewhere,
                ).stdout
            )
            for _ in range(5)
        ]
    return statistics.median(times)


def _tokens(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def _note(step: str) -> None:
    print(step, file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_ENCODER)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    runs = candidates(options.model)
    folder = cached_encoder(options.model)
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    corpora = corpora_dir(options.corpora)
    texts = sample_texts(options.texts, corpora, lambda text: _tokens(tokenizer, text))
    tokens = [_tokens(tokenizer, text) for text in texts]
    figures = measure(runs, texts, options.rounds)
    result: dict[str, Any] = {
        "texts": len(texts),
        "source": "corpora" if corpora else "own sentences",
        "tokens_mean": statistics.fmean(tokens),
        "tokens_max": max(tokens),
        "rounds": options.rounds,
        "threads": 1,
        "processor": _processor(),
        "cold_start_s": cold_start_s(folder),
        "candidates": figures,
    }
    print(
        f"{len(texts)} texts from {result['source']}, {result['tokens_mean']:.0f} tokens on "
        f"average, {options.rounds} rounds, one thread, {result['processor']}"
    )
    print(f"{'':28} {'ms/text':>8} {'range':>13} {'speed':>7} {'cosine mean / min':>18}")
    for name, row in figures.items():
        spread = f"{row['ms_fastest']:.2f}-{row['ms_slowest']:.2f}"
        print(
            f"{name:28} {row['ms_per_text']:8.2f} {spread:>13} {row['times_baseline']:6.2f}x "
            f"{row['cosine_mean']:10.4f} / {row['cosine_min']:.4f}"
        )
    print(f"cold start to the first vector: {result['cold_start_s']:.2f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    reached = figures[OURS]["times_baseline"]
    print(f"goal {GOAL}x: {'reached' if reached >= GOAL else 'missed'} ({reached:.2f}x)")
    return 0 if reached >= GOAL else 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
