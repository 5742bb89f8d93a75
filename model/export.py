"""Exports the classifier's step to ONNX and proves that it gives what torch gives."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from stillwatch.data.errors import BundleError
from stillwatch.model.classifier import Classifier
from stillwatch.model.runtime import ClassifierStep

TOLERANCE = 1e-4


class _Step(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.classifier.step(features, state)


def export_classifier(classifier: Classifier) -> bytes:
    """The step as an ONNX model with inputs features and state, outputs logits and next_state."""
    classifier.eval()
    config = classifier.config
    example = (torch.zeros(3, config.features), classifier.initial_state(3))
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Notes of the exporter about its own dependencies; what it makes is checked below.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Step(classifier),
            example,
            dynamo=True,
            external_data=False,
            input_names=["features", "state"],
            output_names=["logits", "next_state"],
            dynamic_shapes=({0: batch}, {0: batch}),
            verbose=False,
        )
    assert program is not None
    return without_origins(bytes(program.model_proto.SerializeToString()))


def without_origins(model: bytes) -> bytes:
    """The same model without what the exporter noted of where each node came from: stack traces
    with paths of the machine that exported it."""
    import onnx

    parsed = onnx.load_model_from_string(model)
    graph = parsed.graph
    parts = (graph.node, graph.input, graph.output, graph.value_info, graph.initializer)
    for item in (parsed, graph, *(item for part in parts for item in part)):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    return bytes(parsed.SerializeToString())


@torch.no_grad()
def classifier_difference(
    classifier: Classifier, model: bytes, features: np.ndarray | None = None
) -> float:
    """Largest absolute difference between torch, run in parallel over whole streams, and the
    ONNX step, run event by event, over several numbers of streams and lengths.

    `features` (S, T, F) are compared beside random ones. BundleError above TOLERANCE: the exported
    model would score otherwise than the trained one.
    """
    config = classifier.eval().config
    step = ClassifierStep(model, config.features, config.intents, config.state_shape)
    generator = torch.Generator().manual_seed(5)
    shapes = [(1, 1), (2, 7), (5, 64), (1, 300)]
    inputs = [torch.randn(b, t, config.features, generator=generator) for b, t in shapes]
    if features is not None:
        inputs.append(torch.from_numpy(features.astype(np.float32)))
    largest = 0.0
    for own in inputs:
        expected = classifier(own).numpy()
        state = np.zeros((len(own), *config.state_shape), dtype=np.float32)
        for position in range(own.shape[1]):
            logits, state = step.run(own[:, position].numpy(), state)
            largest = max(largest, float(np.abs(logits - expected[:, position]).max()))
    if largest > TOLERANCE:
        raise BundleError(
            f"the exported classifier must be within {TOLERANCE} of torch, however: the largest "
            f"difference is {largest:.2e}; do not release it"
        )
    return largest
