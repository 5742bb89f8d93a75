"""Runs the exported classifier step with onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime

from stillwatch.data.errors import BundleError


class ClassifierStep:
    """(features (B, F), state (B, L, H, K, V+1)) -> (logits (B, 1 + 2I), next state), float32."""

    def __init__(
        self, model: bytes, features: int, intents: int, state_shape: tuple[int, ...]
    ) -> None:
        options = onnxruntime.SessionOptions()
        # The model is small: a second thread costs more than it brings, and order of summation
        # may not depend on the machine.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BundleError(
                f"classifier.onnx must load in onnxruntime, however: {type(error).__name__}; "
                "take the bundle from its source again"
            ) from error
        found = {item.name: item.shape[1:] for item in self._session.get_inputs()}
        expected = {"features": [features], "state": list(state_shape)}
        outputs = {item.name: item.shape[1:] for item in self._session.get_outputs()}
        wanted = {"logits": [1 + 2 * intents], "next_state": list(state_shape)}
        if found != expected or outputs != wanted:
            raise BundleError(
                f"classifier.onnx must map {expected} to {wanted}, however: it maps {found} to "
                f"{outputs}; take the bundle from its source again"
            )

    def run(self, features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step. ArithmeticError if the result is not finite."""
        logits, next_state = self._session.run(
            ["logits", "next_state"],
            {"features": np.ascontiguousarray(features), "state": np.ascontiguousarray(state)},
        )
        if not (np.isfinite(logits).all() and np.isfinite(next_state).all()):
            raise ArithmeticError("the classifier's output must be finite, however: it is not")
        return logits, next_state
