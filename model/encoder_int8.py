"""Dynamic int8 for an encoder's graph, and what keeps its error small.

Steps take and give the bytes of an ONNX model, as those of `encoder_graph`. K is the inner
dimension of a product, N its columns, L the tokens of a window.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stillwatch.model.encoder import INPUT_NAME, Vectors
from stillwatch.model.encoder_graph import probe, quiet

QUANTISED = ("MatMul", "Attention")
# Smoothing that is tried: evening out all columns by a power of their size, or only holding the
# largest down to the size of the one at a rank; and the share of the error it must save.
_STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_RANKS = (1, 2, 4, 8, 16, 32, 64)
_LEAST_GAIN = 0.2


def smooth(fused: bytes, windows: Sequence[Sequence[int]]) -> bytes:
    """The same function with activations that lose less when they are quantised.

    One scale for a whole tensor is set by its few largest columns, and the others drown in the
    rounding. Each column of an activation is divided by a constant and the weights' row
    multiplied by it (SmoothQuant). How far is searched for each product by itself, on `windows`;
    where it gains little, nothing is inserted.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_model_from_string(fused)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    products = {
        node.name: node
        for node in model.graph.node
        if node.op_type in QUANTISED and node.input[1] in weights
    }
    inputs = sorted({node.input[0] for node in products.values()})
    session = probe(model, inputs)
    samples = [session.run(inputs, {INPUT_NAME: np.array([window])}) for window in windows]
    nodes = []
    for node in model.graph.node:
        if node.name in products:
            weight = numpy_helper.to_array(weights[node.input[1]])
            position = inputs.index(node.input[0])
            scale = _best_scale([sample[position][0] for sample in samples], weight)
            if scale is not None:
                scaled = numpy_helper.from_array(weight * scale[:, None], node.input[1])
                weights[node.input[1]].CopyFrom(scaled)
                name = f"{node.name}_smoothing"
                model.graph.initializer.append(numpy_helper.from_array(1 / scale, name))
                out = f"{name}_out"
                nodes.append(helper.make_node("Mul", [node.input[0], name], [out], name=name))
                node.input[0] = out
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def quantise(fused: bytes) -> bytes:
    """Dynamic int8: weights one scale a column, activations one scale a tensor.

    Weights have seven bits: with eight, the 16-bit sums of CPUs without VNNI can saturate, and
    the same bundle would score differently there.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet(), tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "int8.onnx")
        quantize_dynamic(
            onnx.load_model_from_string(fused),
            str(path),
            op_types_to_quantize=list(QUANTISED),
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            extra_options={"MatMulConstBOnly": True},
        )
        return path.read_bytes()


def _best_scale(samples: list[Vectors], weight: Vectors) -> Vectors | None:
    """The scale (K,) of the columns of samples (L, K) that makes int8 lose least, if any does.

    weight: (K, N).
    """
    exact = [sample @ weight for sample in samples]

    def loss(scale: Vectors) -> float:
        rounded = _as_int8_weight(weight * scale[:, None])
        pairs = zip(samples, exact, strict=True)
        return sum(_relative_error(_as_uint8(x / scale) @ rounded, y) for x, y in pairs)

    best: Vectors | None = None
    least = loss(np.ones(len(weight), np.float32)) * (1 - _LEAST_GAIN)
    for scale in _candidate_scales(samples, weight):
        found = loss(scale)
        if found < least:
            best, least = scale, found
    return best


def _candidate_scales(samples: list[Vectors], weight: Vectors) -> Iterator[Vectors]:
    columns = np.maximum(np.max([np.abs(x).max(axis=0) for x in samples], axis=0), 1e-5)
    rows = np.maximum(np.abs(weight).max(axis=1), 1e-5)
    for strength in _STRENGTHS:
        scale = columns**strength / rows ** (1 - strength)
        yield (scale / np.exp(np.log(scale).mean())).astype(np.float32)
    largest = np.sort(columns)[::-1]
    for rank in _RANKS:
        if rank < len(largest):
            yield np.maximum(columns / largest[rank], 1).astype(np.float32)


def _relative_error(found: Vectors, exact: Vectors) -> float:
    return float(np.sum((found - exact) ** 2) / max(float(np.sum(exact**2)), 1e-12))


def _as_uint8(x: Vectors) -> Vectors:
    """What is left of x after DynamicQuantizeLinear, as float32."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / 255 or 1.0
    zero = np.round(-low / step)
    return ((np.clip(np.round(x / step) + zero, 0, 255) - zero) * step).astype(np.float32)


def _as_int8_weight(weight: Vectors) -> Vectors:
    """What is left of a weight after symmetric rounding to seven bits, one scale a column."""
    step = np.maximum(np.abs(weight).max(axis=0), 1e-12) / 64
    return (np.clip(np.round(weight / step), -64, 63) * step).astype(np.float32)
