# Copyright 2026 The coordexp-trl authors. Licensed under the Apache License, Version 2.0.
"""Box losses: known values, gradient directions, degenerate and inverted boxes."""

import pytest
import torch

from coordexp_trl.losses.geometry import ciou_loss, giou_loss, l1_loss

LOSSES = [l1_loss, giou_loss, ciou_loss]


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_boxes_have_no_loss(loss):
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(loss(boxes, boxes), torch.zeros(2), atol=1e-6, rtol=0)


def test_known_values():
    pred, target = torch.tensor([[0.0, 0.0, 0.2, 0.2]]), torch.tensor([[0.2, 0.2, 0.4, 0.4]])
    torch.testing.assert_close(l1_loss(pred, target), torch.tensor([0.8]))
    # No overlap, the hull is 0.16, of which 0.08 is covered: GIoU = -0.5.
    torch.testing.assert_close(giou_loss(pred, target), torch.tensor([1.5]))
    # Same shape, centres at half of the hull's diagonal: CIoU = -0.25.
    torch.testing.assert_close(ciou_loss(pred, target), torch.tensor([1.25]))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "pred",
    [
        [0.1, 0.1, 0.3, 0.3],  # disjoint
        [0.35, 0.45, 0.7, 0.7],  # overlapping
        [0.3, 0.3, 0.9, 0.95],  # around the target
        [0.5, 0.55, 0.7, 0.75],  # inside the target
    ],
)
def test_a_gradient_step_lowers_the_loss(loss, pred):
    pred = torch.tensor([pred], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0.4, 0.5, 0.8, 0.8]], dtype=torch.float64)
    before = loss(pred, target)
    (gradient,) = torch.autograd.grad(before.sum(), pred)
    step = 1e-3 * gradient / gradient.norm()
    assert loss(pred - step, target).item() < before.item()


def test_giou_pulls_a_disjoint_box_towards_the_target():
    pred = torch.tensor([[0.1, 0.1, 0.3, 0.3]], requires_grad=True)
    giou_loss(pred, torch.tensor([[0.6, 0.6, 0.8, 0.8]])).sum().backward()
    assert (pred.grad[:, 2:] < 0).all()  # the near corner grows towards the target


def test_inverted_predictions_count_as_sorted_and_l1_sets_them_right():
    target = torch.tensor([[0.1, 0.2, 0.5, 0.6]])
    inverted = torch.tensor([[0.5, 0.6, 0.1, 0.2]], requires_grad=True)
    torch.testing.assert_close(giou_loss(inverted, target), torch.zeros(1))
    torch.testing.assert_close(ciou_loss(inverted, target), torch.zeros(1), atol=1e-6, rtol=0)
    loss = l1_loss(inverted, target)
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([1.6]))
    torch.testing.assert_close(inverted.grad, torch.tensor([[1.0, 1.0, -1.0, -1.0]]))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "pred",
    [
        [0.3, 0.3, 0.3, 0.3],  # a point inside the target
        [0.0, 0.0, 0.0, 0.0],  # a point outside
        [0.2, 0.1, 0.2, 0.9],  # a line
        [1.0, 1.0, 0.0, 0.0],  # the whole image, inverted
        [0.2, 0.8, 0.6, 0.2],  # one axis inverted
    ],
)
@pytest.mark.parametrize("target", [[0.2, 0.2, 0.6, 0.6], [0.3, 0.3, 0.3, 0.3], [0.0, 0.5, 1.0, 0.5]])
def test_degenerate_boxes_have_finite_losses_and_gradients(loss, pred, target):
    pred = torch.tensor([pred], requires_grad=True)
    value = loss(pred, torch.tensor([target]))
    value.sum().backward()
    assert value.isfinite().all() and value.item() >= -1e-6 and pred.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_no_boxes_give_a_connected_zero(loss):
    pred = torch.zeros(0, 4, requires_grad=True)
    value = loss(pred, torch.zeros(0, 4))
    assert value.shape == (0,)
    value.sum().backward()
    assert pred.grad.shape == (0, 4)
