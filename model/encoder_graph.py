"""The graphs of an encoder: traced from torch, fused, and made ready to run.

Every step takes and gives the bytes of an ONNX model that maps `input_ids` int64 (B, L) to
`sentence_vector` float32 (B, D). There is no attention mask: windows of unequal length are never
put in one batch, so there is no padding to hide.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stillwatch.data.errors import ConfigError, MissingError
from stillwatch.model.encoder import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, EncoderSpec
from stillwatch.model.sentence import INSTALL_HINT

OPSET = 18
MICROSOFT = "com.microsoft"
# onnxruntime's fused kernels for these are scalar loops on the CPU, slower than their parts.
_SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasGeluFusion"]


def trace(model: Any, spec: EncoderSpec) -> bytes:
    """Transformer, pooling and normalisation of a SentenceTransformer as one fp32 graph.

    Leaves the model with plain ("eager") attention, which is what fuses best.
    """
    torch = _torch()

    class SentenceVector(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.transformer = model[0].auto_model

        def forward(self, input_ids: Any) -> Any:
            tokens = self.transformer(input_ids=input_ids).last_hidden_state  # (B, L, D)
            pooled = tokens[:, 0] if spec.pooling == "cls" else tokens.mean(dim=1)
            return torch.nn.functional.normalize(pooled, dim=1)

    dynamic = torch.export.Dim.DYNAMIC
    sample = torch.full((2, 9), int(spec.suffix_ids[-1]) if spec.suffix_ids else 1)
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "traced.onnx")
        try:
            with contextlib.suppress(ValueError):
                model[0].auto_model.set_attn_implementation("eager")
            torch.onnx.export(
                SentenceVector().eval(),
                (),
                str(path),
                kwargs={INPUT_NAME: sample},
                dynamic_shapes={INPUT_NAME: {0: dynamic, 1: dynamic}},
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter raises of many kinds, for lack of an operator
            raise ConfigError(
                "an encoder must be one that torch can export, however: exporting it raised "
                f"{type(error).__name__}; choose another model"
            ) from error
        return path.read_bytes()


def fuse(traced: bytes, spec: EncoderSpec) -> bytes:
    """The same graph with attention and GELU fused where that is known to be exact.

    Left to onnxruntime's own fusions if the graph has attention of a kind that does not fuse.
    """
    import onnx
    import onnx_ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    with quiet():
        try:
            fused, _ = optimize_for_ort(onnx_ir.from_proto(onnx.load_model_from_string(traced)))
            proto = onnx_ir.to_proto(fused)
        except Exception:  # rewrite rules are written for known architectures
            return traced
    model = onnx.load_model_from_string(_optimise(proto.SerializeToString(), basic=True))
    attention = [node for node in model.graph.node if node.op_type == "Attention"]
    if not attention or not _biases_are_zero(model, attention, spec):
        return traced
    nodes = []
    for node in model.graph.node:
        nodes += _rewrite(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    # Drops what fed the biases.
    return _optimise(model.SerializeToString(), basic=True)


def finish(graph: bytes, spec: EncoderSpec) -> bytes:
    """The graph as it is to run: optimised once and for all, with its description inside."""
    import onnx

    # onnxruntime saves none of the exporter's notes, which name files of the exporting machine.
    model = onnx.load_model_from_string(_optimise(graph, basic=False))
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, spec.to_json()
    return bytes(model.SerializeToString())


def operators(graph: bytes) -> dict[str, int]:
    """How often each operator occurs."""
    import onnx

    names = [node.op_type for node in onnx.load_model_from_string(graph).graph.node]
    return {name: names.count(name) for name in sorted(set(names))}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the exporters' notes off the terminal; their errors are raised all the same."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _torch() -> Any:
    try:
        import onnxscript  # noqa: F401
        import torch
    except ImportError as error:
        raise MissingError(
            f"an export must have torch and onnxscript, however: {error.name} is not installed; "
            f"{INSTALL_HINT}"
        ) from None
    return torch


def _optimise(graph: bytes, *, basic: bool) -> bytes:
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = (
        levels.ORT_ENABLE_BASIC if basic else levels.ORT_ENABLE_EXTENDED
    )
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "optimised.onnx")
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
        )
        return path.read_bytes()


def _biases_are_zero(model: Any, attention: list[Any], spec: EncoderSpec) -> bool:
    """True if no attention has a mask or bias but one that is zero for every length.

    transformers builds a mask of zeros where none is given; the quantised attention kernel takes
    none. A model with learnt position biases is told apart by their values.
    """
    names = set()
    for node in attention:
        names |= {name for name in list(node.input)[3:] if name}
        if len({*_attribute(node, "qkv_hidden_sizes", [0])}) != 1:
            return False
        if _attribute(node, "unidirectional", 0) or not node.input[2]:
            return False
    if not names:
        return True
    session = probe(model, sorted(names))
    for length in (1, 2, 17, spec.limit):
        ids = np.ones((2, length), dtype=np.int64)
        for bias in session.run(sorted(names), {INPUT_NAME: ids}):
            if np.any(bias):
                return False
    return True


def probe(model: Any, names: Sequence[str]) -> Any:
    """A session of a model that also gives inner values, by name."""
    import onnx
    import onnxruntime

    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return onnxruntime.InferenceSession(
        opened.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def _attribute(node: Any, name: str, default: Any) -> Any:
    import onnx

    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def _rewrite(node: Any) -> list[Any]:
    """A node as the nodes that run fastest in its place."""
    from onnx import helper

    out = node.output[0]
    if node.op_type == "Attention" and node.domain == MICROSOFT:
        # Equal sizes of query, key and value are the default; the quantiser wants it unsaid.
        kept = [a for a in node.attribute if a.name != "qkv_hidden_sizes"]
        del node.attribute[:], node.input[3:]
        node.attribute.extend(kept)
        return [node]
    if node.op_type == "SkipLayerNormalization" and len(node.input) >= 4:
        # Its optional outputs: mean, inverse deviation (training only), and the sum.
        total = node.output[3] if len(node.output) > 3 and node.output[3] else f"{out}_sum"
        x, skip, gamma, beta, *bias = node.input
        nodes = []
        if bias and bias[0]:
            nodes.append(helper.make_node("Add", [x, bias[0]], [f"{out}_biased"]))
            x = f"{out}_biased"
        nodes.append(helper.make_node("Add", [x, skip], [total]))
        epsilon = _attribute(node, "epsilon", 1e-12)
        norm = [total, gamma, beta]
        nodes.append(helper.make_node("LayerNormalization", norm, [out], axis=-1, epsilon=epsilon))
        return _named(nodes, node.name)
    if node.op_type == "BiasGelu":
        x, bias = node.input
        nodes = [
            helper.make_node("Add", [x, bias], [f"{out}_biased"]),
            helper.make_node("Gelu", [f"{out}_biased"], [out], domain=MICROSOFT),
        ]
        return _named(nodes, node.name)
    return [node]


def _named(nodes: list[Any], name: str) -> list[Any]:
    for node in nodes:
        node.name = f"{name}_{node.op_type}_{node.output[0]}"
    return nodes
