# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""
Losses on the distribution over the K coordinate tokens, one value per slot and no reduction.

Logits, log-probabilities and targets have shape `(..., K)`, results `(...)`. Everything is computed in float32, or in
float64 for float64 input. Bin k stands for the value phi(k) = k / (K - 1).
"""

import torch

from coordexp_trl.coordinates import CoordinateGrid

TRUNCATION = 4.0  # of the Gaussian targets, in sigmas


def expectation(logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None) -> torch.Tensor:
    """
    Continuous coordinate as the expectation c = sum_k p_k phi(k), p = softmax(logits / temperature).

    Its gradient is dc/ds_k = p_k (phi(k) - c) / temperature.

    Args:
        logits (`torch.Tensor`):
            Coordinate logits of shape `(..., K)`.
        temperature (`float`, *optional*, defaults to `1.0`):
            Softmax temperature, positive.
        top_k (`int`, *optional*):
            If set, the distribution is restricted to the `top_k` largest logits and renormalised.

    Returns:
        `torch.Tensor`: coordinates in [0, 1] of shape `(...)`.

    Raises:
        `ValueError`: if `temperature` is not positive or `top_k` is not within 1..K.
    """
    num_bins = logits.shape[-1]
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature!r}: must be positive.")
    if top_k is not None and not 1 <= top_k <= num_bins:
        raise ValueError(f"top_k = {top_k!r}: must be between 1 and the number of bins, {num_bins}.")
    logits = _at_least_float32(logits) / temperature
    values = _values(logits)
    if top_k is None:
        return logits.softmax(-1) @ values
    logits, bins = logits.topk(top_k, dim=-1)
    return (logits.softmax(-1) * values[bins]).sum(-1)


def gaussian_targets(bins: torch.Tensor, num_bins: int, sigma: float) -> torch.Tensor:
    """
    Gaussian around each target bin, cut off beyond 4 sigma and normalised over the K bins.

    The bin nearest to the target always has mass, so a small `sigma` gives the one-hot of that bin.

    Args:
        bins (`torch.Tensor`):
            Target bins of shape `(...)`, integers or floats within [0, K - 1].
        num_bins (`int`):
            Number of bins K.
        sigma (`float`):
            Standard deviation in bins, positive.

    Returns:
        `torch.Tensor`: probabilities of shape `(..., K)`, float32 (float64 for float64 `bins`).

    Raises:
        `ValueError`: if `sigma` is not positive.
    """
    if not sigma > 0:
        raise ValueError(f"sigma = {sigma!r}: must be positive (in bins).")
    bins = _at_least_float32(bins)
    distance = (torch.arange(num_bins, device=bins.device, dtype=bins.dtype) - bins[..., None]).abs()
    nearest = distance.amin(-1, keepdim=True)
    # Relative to the nearest bin, which therefore has weight 1 however small sigma is.
    weights = (-0.5 * ((distance - nearest) / sigma) * ((distance + nearest) / sigma)).exp()
    weights = torch.where(distance <= TRUNCATION * sigma, weights, 0.0).masked_fill(distance == nearest, 1.0)
    return weights / weights.sum(-1, keepdim=True)


def hard_cross_entropy(log_probs: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy over the K coordinate tokens.

    Args:
        log_probs (`torch.Tensor`):
            Log-probabilities over the bins, shape `(..., K)`.
        bins (`torch.Tensor`):
            Target bins of shape `(...)`, integers.

    Returns:
        `torch.Tensor`: nats, of shape `(...)`.
    """
    return -_at_least_float32(log_probs).gather(-1, bins[..., None])[..., 0]


def soft_cross_entropy(log_probs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy -sum_k q_k log p_k to a target distribution; bins without target mass contribute nothing.

    Args:
        log_probs (`torch.Tensor`):
            Log-probabilities over the bins, shape `(..., K)`.
        targets (`torch.Tensor`):
            Target distribution q of shape `(..., K)`, as from [`gaussian_targets`].

    Returns:
        `torch.Tensor`: nats, of shape `(...)`; smallest, with gradient zero in the logits, at p = q.
    """
    return -_weighted_sum(targets, log_probs)


def wasserstein1(probs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """
    Wasserstein-1 distance sum_k |CDF_p(k) - CDF_q(k)| / (K - 1) between two distributions over the bins.

    Args:
        probs (`torch.Tensor`):
            Probabilities p of shape `(..., K)`.
        targets (`torch.Tensor`):
            Target distribution q of shape `(..., K)`.

    Returns:
        `torch.Tensor`: distance in [0, 1], in units of the image's side, of shape `(...)`.
    """
    difference = _at_least_float32(probs) - targets
    return difference.cumsum(-1).abs().sum(-1) / (probs.shape[-1] - 1)


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """
    Entropy -sum_k p_k log p_k.

    Args:
        log_probs (`torch.Tensor`):
            Log-probabilities over the bins, shape `(..., K)`.

    Returns:
        `torch.Tensor`: nats in [0, log K], of shape `(...)`.
    """
    log_probs = _at_least_float32(log_probs)
    return -_weighted_sum(log_probs.exp(), log_probs)


def _weighted_sum(weights: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
    """sum_k w_k log p_k with 0 · log 0 = 0, also in the gradient."""
    log_probs = _at_least_float32(log_probs)
    return (weights * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1)


def _values(logits: torch.Tensor) -> torch.Tensor:
    """phi(k) of every bin, shape `(K,)`, in the dtype of `logits`."""
    return CoordinateGrid(logits.shape[-1]).values(logits.device).to(logits.dtype)


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """float64 stays float64; anything else becomes float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
