# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Losses on the coordinate distribution: closed forms, gradients, extreme input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp_trl.losses.coordinate import (
    entropy,
    expectation,
    gaussian_targets,
    hard_cross_entropy,
    soft_cross_entropy,
    wasserstein1,
)

K = 1000


def one_hot(bins, num_bins=K):
    return torch.nn.functional.one_hot(torch.as_tensor(bins), num_bins).double()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_expectation_gradient_is_the_closed_form(temperature):
    torch.manual_seed(0)
    logits = torch.randn(3, 17, dtype=torch.float64, requires_grad=True)
    result = expectation(logits, temperature)
    (gradient,) = torch.autograd.grad(result.sum(), logits)
    phi = torch.arange(17, dtype=torch.float64) / 16
    closed_form = (logits / temperature).softmax(-1) * (phi - result[:, None]) / temperature
    assert result.dtype == torch.float64
    torch.testing.assert_close(gradient, closed_form, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("top_k", [None, 1, 4, 9])
def test_expectation_gradcheck(top_k):
    torch.manual_seed(1)
    logits = torch.randn(2, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: expectation(x, 0.7, top_k), logits)


def test_expectation_of_peaks():
    logits = torch.full((4, K), -1e4)
    logits[0, 0] = logits[1, 999] = logits[2, 250] = 1e4
    logits[3, [100, 300]] = 1e4  # two modes: the mean lies between them
    torch.testing.assert_close(expectation(logits), torch.tensor([0, 999, 250, 200]) / 999)


def test_expectation_top_k_keeps_the_largest_logits_only():
    logits = torch.zeros(1, K)
    logits[0, 100], logits[0, 101] = 5.0, 5.0
    torch.testing.assert_close(expectation(logits, top_k=2), torch.tensor([100.5 / 999]))
    torch.testing.assert_close(expectation(logits, top_k=K), expectation(logits))


def test_expectation_in_half_precision_is_computed_in_float32():
    logits = torch.randn(5, K, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert expectation(logits).dtype == torch.float32
    torch.testing.assert_close(expectation(logits), expectation(logits.float()), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": math.nan}, {"top_k": 0}, {"top_k": 11}])
def test_expectation_rejects_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        expectation(torch.zeros(2, 10), **options)


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 99), st.floats(1e-3, 30))
def test_gaussian_targets_are_truncated_normalised_and_peak_at_the_nearest_bin(target, sigma):
    bins = torch.tensor([target], dtype=torch.float64)
    (probs,) = gaussian_targets(bins, 100, sigma)
    distance = (torch.arange(100) - bins).abs()
    assert probs.sum().item() == pytest.approx(1.0)
    assert probs[distance.argmin()] == probs.max() > 0
    beyond = (distance > 4 * sigma) & (distance > distance.min())
    assert (probs[beyond] == 0).all() and (probs >= 0).all()
    # Ratios inside the window are those of a Gaussian.
    inside = probs > 0
    expected = -0.5 * (distance[inside] ** 2 - distance.min() ** 2) / sigma**2
    torch.testing.assert_close((probs[inside] / probs.max()).log(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma", [1e-45, 1e-6, 0.1])
def test_gaussian_targets_of_a_tiny_sigma_are_one_hot(sigma):
    bins = torch.tensor([[0, 7], [42, 99]])
    torch.testing.assert_close(gaussian_targets(bins, 100, sigma), one_hot(bins, 100).float(), rtol=0, atol=0)
    off_grid = gaussian_targets(torch.tensor([41.6]), 100, sigma)
    torch.testing.assert_close(off_grid, one_hot([42], 100).float(), rtol=0, atol=2e-3)


def test_gaussian_targets_reject_a_sigma_that_is_not_positive():
    with pytest.raises(ValueError, match="sigma = 0"):
        gaussian_targets(torch.tensor([1]), 10, 0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, K - 1), st.integers(0, K - 1))
def test_wasserstein1_of_two_one_hots_is_their_distance(i, j):
    assert wasserstein1(one_hot(i), one_hot(j)).item() == pytest.approx(abs(i - j) / (K - 1), abs=1e-12)


def test_wasserstein1_equals_scipy():
    from scipy.stats import wasserstein_distance

    torch.manual_seed(0)
    p, q = torch.randn(2, 50, dtype=torch.float64).softmax(-1)
    positions = [k / 49 for k in range(50)]
    assert wasserstein1(p, q).item() == pytest.approx(wasserstein_distance(positions, positions, p, q), abs=1e-12)


def test_soft_cross_entropy_is_smallest_at_the_target():
    torch.manual_seed(0)
    targets = gaussian_targets(torch.tensor([3.0, 20.5], dtype=torch.float64), 32, 2.0)
    smooth = 0.9 * targets + 0.1 / 32
    logits = smooth.log().requires_grad_()
    loss = soft_cross_entropy(logits.log_softmax(-1), smooth)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
    torch.testing.assert_close(loss, entropy(smooth.log()))
    for _ in range(20):
        moved = (logits + 0.1 * torch.randn_like(logits)).log_softmax(-1)
        assert (soft_cross_entropy(moved, smooth) > loss).all()


def test_cross_entropies_agree_on_one_hot_targets():
    torch.manual_seed(0)
    log_probs, bins = torch.randn(2, 3, K).log_softmax(-1), torch.randint(K, (2, 3))
    hard = hard_cross_entropy(log_probs, bins)
    reference = torch.nn.functional.cross_entropy(log_probs.flatten(0, 1), bins.flatten(), reduction="none")
    torch.testing.assert_close(hard.flatten(), reference)
    torch.testing.assert_close(soft_cross_entropy(log_probs, one_hot(bins).float()), hard)


def test_entropy_bounds():
    torch.testing.assert_close(entropy(torch.zeros(2, K).log_softmax(-1)), torch.full((2,), math.log(K)))
    assert entropy(one_hot(5).log()).item() == 0  # log 0 is -inf


@pytest.mark.parametrize(
    "logits",
    [
        torch.full((1, K), 1e4),  # equal and large
        torch.full((1, K), -1e4),
        torch.cat([torch.full((1, 1), 1e4), torch.full((1, K - 1), -1e4)], dim=1),  # certain, at the far end
        torch.linspace(-1e4, 1e4, K)[None],
    ],
)
def test_extreme_logits_stay_finite(logits):
    logits = logits.clone().requires_grad_()
    bins = torch.tensor([999])
    log_probs, targets = logits.log_softmax(-1), gaussian_targets(bins, K, 3.0)
    terms = [
        expectation(logits),
        expectation(logits, temperature=0.01, top_k=10),
        hard_cross_entropy(log_probs, bins),
        soft_cross_entropy(log_probs, targets),
        wasserstein1(log_probs.exp(), targets),
        entropy(log_probs),
    ]
    for term in terms:
        (gradient,) = torch.autograd.grad(term.sum(), logits, retain_graph=True)
        assert term.shape == (1,) and term.isfinite().all() and gradient.isfinite().all()


def test_no_slots():
    logits = torch.zeros(0, K, requires_grad=True)
    log_probs, targets = logits.log_softmax(-1), gaussian_targets(torch.zeros(0), K, 3.0)
    terms = [expectation(logits), soft_cross_entropy(log_probs, targets), wasserstein1(log_probs.exp(), targets)]
    assert all(term.shape == (0,) and term.requires_grad for term in terms)
