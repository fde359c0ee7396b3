"""Section 2.3: the covariance of the gradient noise that label noise makes."""

import pytest
import torch

from antipgd.theory import label_noise_covariance

X = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
W = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)


def noisy_gradient(xi):
    """The gradient at W of the mean squared loss of a curved model, halved, with xi added to its residuals."""
    w = W.clone().requires_grad_()
    loss = (torch.sin(X @ w) + xi).square().mean() / 2
    return torch.autograd.grad(loss, w, create_graph=True)[0]


@pytest.mark.parametrize("common", [False, True])
def test_it_is_the_covariance_of_the_noisy_gradient(common):
    jacobian = torch.autograd.functional.jacobian(lambda w: torch.sin(X @ w), W)
    columns = torch.autograd.functional.jacobian(noisy_gradient, torch.zeros(4, dtype=torch.float64))
    if common:
        columns = columns.sum(1, keepdim=True)
    torch.testing.assert_close(label_noise_covariance(jacobian, 0.7, common=common), 0.49 * columns @ columns.T)


def test_by_hand():
    jacobian = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    torch.testing.assert_close(label_noise_covariance(jacobian, 2.0), torch.tensor([[1.0, 2.0], [2.0, 5.0]]))
    common = torch.tensor([[1.0, 3.0], [3.0, 9.0]])
    torch.testing.assert_close(label_noise_covariance(jacobian, 2.0, common=True), common)
