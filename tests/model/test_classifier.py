"""The classifier: causal, incremental, indifferent to padding and neighbours, equal in ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillwatch.data.errors import BundleError
from stillwatch.model.classifier import Classifier, ClassifierConfig, Linear
from stillwatch.model.export import classifier_difference, export_classifier
from stillwatch.model.runtime import ClassifierStep

FEATURES, INTENTS = 11, 3


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(3)
    made = Classifier(ClassifierConfig(FEATURES, INTENTS, members=3, width=16, layers=2, key=4))
    made.set_scale(torch.randn(FEATURES), torch.rand(FEATURES) + 0.5)
    return made.eval()


@pytest.fixture(scope="module")
def exported(classifier: Classifier) -> bytes:
    return export_classifier(classifier)


def streams(count: int, length: int) -> torch.Tensor:
    return torch.randn(count, length, FEATURES, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_steps_equal_the_parallel_form(classifier: Classifier) -> None:
    inputs = streams(3, 200)
    expected = classifier(inputs)
    state = classifier.initial_state(3)
    for position in range(200):
        output, state = classifier.step(inputs[:, position], state)
        torch.testing.assert_close(output, expected[:, position], atol=2e-5, rtol=0)


@torch.no_grad()
def test_members_differ_and_their_mean_is_the_output(classifier: Classifier) -> None:
    inputs = streams(2, 30)
    each = classifier.each(inputs)
    assert each.shape == (3, 2, 30, 1 + 2 * INTENTS)
    torch.testing.assert_close(each.mean(dim=0), classifier(inputs))
    assert (each[0] - each[1]).abs().max() > 0.1
    # A member reads its own weights and no other's.
    for weights in classifier.state_dict().values():
        assert weights.shape[0] == 3 or weights.shape == (FEATURES,)
    other = Classifier(classifier.config).eval()
    other.load_state_dict(classifier.state_dict())
    for parameter in other.parameters():
        parameter[1] += 0.1
    changed = (other.each(inputs) - each).abs().amax(dim=(1, 2, 3))
    assert changed[1] > 0.1
    assert changed[0] == changed[2] == 0


@torch.no_grad()
def test_the_future_changes_no_earlier_output(classifier: Classifier) -> None:
    inputs = streams(1, 60)
    changed = inputs.clone()
    changed[:, 40:] += 3
    before, after = classifier(inputs)[0], classifier(changed)[0]
    torch.testing.assert_close(before[:40], after[:40], atol=1e-6, rtol=0)
    assert (before[40:] - after[40:]).abs().max() > 0.01


@torch.no_grad()
def test_padding_and_neighbours_change_nothing(classifier: Classifier) -> None:
    inputs = streams(4, 50)
    alone = classifier(inputs[1:2, :30])
    padded = torch.zeros(4, 50, FEATURES)
    padded[0], padded[2:] = inputs[0], inputs[2:]
    padded[1, :30] = inputs[1, :30]
    torch.testing.assert_close(classifier(padded)[1:2, :30], alone, atol=1e-5, rtol=0)


def test_onnx_equals_torch(classifier: Classifier, exported: bytes) -> None:
    assert classifier_difference(classifier, exported) <= 1e-4


def test_another_model_does_not_pass_the_gate(classifier: Classifier, exported: bytes) -> None:
    torch.manual_seed(4)
    other = Classifier(classifier.config)
    with pytest.raises(BundleError, match="do not release it"):
        classifier_difference(other, exported)


def test_features_given_to_the_gate_are_compared_beside_random_ones(
    classifier: Classifier, exported: bytes
) -> None:
    # Differs only where the first feature is not at its mean.
    other = Classifier(classifier.config)
    other.load_state_dict(classifier.state_dict())
    embed = next(other.embed.children())
    assert isinstance(embed, Linear)
    with torch.no_grad():
        embed.weight[:, 0] += 1
    alike = streams(2, 9)
    alike[:, :, 0] = classifier.feature_mean[0]
    with pytest.raises(BundleError, match="do not release it"):
        classifier_difference(other, exported, alike.numpy())
    assert classifier_difference(classifier, exported, alike.numpy()) <= 1e-4
    # And they are compared.
    alike[:, :, 1] = torch.nan
    with pytest.raises(ArithmeticError):
        classifier_difference(classifier, exported, alike.numpy())


def test_state_has_a_fixed_size_and_stays_finite(classifier: Classifier, exported: bytes) -> None:
    shape = classifier.config.state_shape
    step = ClassifierStep(exported, FEATURES, INTENTS, shape)
    state = np.zeros((1, *shape), dtype=np.float32)
    rng = np.random.default_rng(0)
    for _ in range(3000):
        _, state = step.run(rng.normal(size=(1, FEATURES)).astype(np.float32), state)
    assert state.shape == (1, *shape)
    assert np.isfinite(state).all()


def test_not_a_number_is_an_error(exported: bytes, classifier: Classifier) -> None:
    shape = classifier.config.state_shape
    step = ClassifierStep(exported, FEATURES, INTENTS, shape)
    features = np.full((1, FEATURES), np.nan, dtype=np.float32)
    with pytest.raises(ArithmeticError, match="finite"):
        step.run(features, np.zeros((1, *shape), dtype=np.float32))


def test_a_model_of_other_sizes_is_refused(exported: bytes, classifier: Classifier) -> None:
    with pytest.raises(BundleError, match=r"classifier\.onnx must map"):
        ClassifierStep(exported, FEATURES + 1, INTENTS, classifier.config.state_shape)
