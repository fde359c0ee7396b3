"""The toy losses of the paper, on a leading batch of runs: loss, gradient and exact Hessian trace.

Weights are tensors ``w`` of shape (..., dim): the last axis is one point, the axes before it are runs, and
every method answers for all runs at once. ``dynamics.py`` uses (seeds, configurations, dim).

A new landscape is one class: ``dim``, ``loss``, ``gradient``, ``hessian_trace`` and ``trace_gradient`` for a
``Landscape``; a fit to data adds ``residuals`` and ``pull_back`` and gets minibatches and label noise for it.
"""

import torch


class Landscape:
    """A loss with closed-form derivatives. ``dim`` is the number of coordinates of a point."""

    dim: int

    def loss(self, w):
        """L(w), shape (...)."""
        raise NotImplementedError

    def gradient(self, w):
        """The gradient of L, shape (..., dim)."""
        raise NotImplementedError

    def hessian_trace(self, w):
        """The trace of the Hessian of L, exact, shape (...)."""
        raise NotImplementedError

    def trace_gradient(self, w):
        """The gradient of the Hessian trace, shape (..., dim): what an explicit trace penalty adds to the gradient."""
        raise NotImplementedError


class LeastSquares(Landscape):
    """A landscape that is a mean of squared residuals over ``samples`` data points.

    Its gradient is linear in the residuals. So a minibatch is the same gradient with reweighted residuals, and
    label noise the same gradient with shifted ones: ``pull_back(w, residuals(w) * weights + shift)``.
    """

    samples: int

    def residuals(self, w):
        """Prediction minus target of each data point, shape (..., samples)."""
        raise NotImplementedError

    def pull_back(self, w, residuals):
        """The gradient that these residuals make at w, shape (..., dim)."""
        raise NotImplementedError

    def gradient(self, w):
        return self.pull_back(w, self.residuals(w))


class WideningValley(Landscape):
    """``L(u, v) = v**2 * |u|**2 / 2`` with u in R^d and v in R (paper, equations 10 to 12).

    A point is ``w = (u, v)``, v last, so ``dim = d + 1``. The floor of the valley is v = 0; it is the flatter
    the shorter u is.
    """

    def __init__(self, d):
        if d < 1:
            raise ValueError(f"d is {d}: the valley needs at least one coordinate u besides v.")
        self.dim = d + 1

    def split(self, w):
        """u of shape (..., d) and v of shape (...)."""
        return w[..., :-1], w[..., -1]

    def loss(self, w):
        u, v = self.split(w)
        return v.square() * u.square().sum(-1) / 2

    def gradient(self, w):
        u, v = w[..., :-1], w[..., -1:]
        gradient = torch.empty_like(w)
        torch.mul(u, v.square(), out=gradient[..., :-1])
        torch.mul(u.square().sum(-1, keepdim=True), v, out=gradient[..., -1:])
        return gradient

    def hessian_trace(self, w):
        u, v = self.split(w)
        return (self.dim - 1) * v.square() + u.square().sum(-1)

    def trace_gradient(self, w):
        gradient = 2 * w
        gradient[..., -1] *= self.dim - 1
        return gradient


class QuadraticRegression(LeastSquares):
    """``L(w) = |X w**2 - y|**2 / (4 M)``, squares taken by coordinate (paper, equations 78 and 79).

    X: (M, d), one data set for all runs; or (seeds, M, d), one for each seed, for weights of shape
    (..., seeds, configurations, d). y: (M,) or (seeds, M).
    """

    def __init__(self, X, y):
        self.X, self.y = beside_configurations(X, y)
        self.samples, self.dim = X.shape[-2:]
        self._column_norms = self._along_runs(X.square().sum(-2))
        self._row_sums = self._along_runs(X.sum(-1))

    @classmethod
    def sparse(cls, seeds, *, d=100, M=40, nonzero=10, test_samples=100, dtype=torch.float64):
        """The paper's problem, drawn anew for each seed: (training landscape, test landscape, the weights w*).

        Rows of X are standard normal; w* has ``nonzero`` ones and then zeros; the targets are exact, y = X w***2.
        """
        target = torch.zeros(d, dtype=dtype)
        target[:nonzero] = 1
        train, test = standard_rows(seeds, [M, test_samples], d, dtype)
        return cls(train, train @ target.square()), cls(test, test @ target.square()), target

    def _along_runs(self, per_data_set):
        """(n,) stays; (seeds, n) gains the axis of configurations."""
        return per_data_set if per_data_set.dim() == 1 else per_data_set.unsqueeze(-2)

    def residuals(self, w):
        return product(w * w, self.X.mT, minus=self.y)

    def pull_back(self, w, residuals):
        return product(residuals, self.X, factor=1 / self.samples).mul_(w)

    def loss(self, w):
        return self.residuals(w).square().sum(-1) / (4 * self.samples)

    def hessian_trace(self, w):
        from_weights = 2 * (w.square() * self._column_norms).sum(-1)
        from_residuals = (self.residuals(w) * self._row_sums).sum(-1)
        return (from_weights + from_residuals) / self.samples

    def trace_gradient(self, w):
        return (4 * self._column_norms + 2 * (self._row_sums @ self.X)) * w / self.samples


class LinearNetwork(LeastSquares):
    """One hidden linear unit: ``L(u, v) = |y - v X u|**2 / (2 M)`` (paper, equation 15).

    A point is ``w = (u, v)``, v last, so ``dim = n + 1`` for n features. X: (M, n), or (seeds, M, n) for weights of
    shape (..., seeds, configurations, dim). y: (M,) or (seeds, M).
    """

    def __init__(self, X, y):
        self.X, self.y = beside_configurations(X, y)
        self.samples, features = X.shape[-2:]
        self.dim = features + 1
        self._moment = X.square().sum((-2, -1)) / self.samples  # trace of the features' second-moment matrix
        if X.dim() == 3:
            self._moment = self._moment.unsqueeze(-1)

    @classmethod
    def sparse(cls, seeds, *, m=5, d=20, M=500, test_samples=1000, dtype=torch.float64):
        """Sparse regression, drawn anew for each seed: (training landscape, test landscape, the true coefficients).

        m relevant features of equal weight and d spurious ones, all standard normal; the coefficients have norm 1
        and the targets are exact.
        """
        target = torch.zeros(m + d, dtype=dtype)
        target[:m] = m**-0.5
        train, test = standard_rows(seeds, [M, test_samples], m + d, dtype)
        return cls(train, train @ target), cls(test, test @ target), target

    def hidden(self, w):
        """The hidden unit X u of each data point, shape (..., samples)."""
        return w[..., :-1] @ self.X.mT

    def residuals(self, w):
        return w[..., -1:] * self.hidden(w) - self.y

    def pull_back(self, w, residuals):
        gradient = torch.empty_like(w)
        torch.mul(residuals @ self.X, w[..., -1:], out=gradient[..., :-1])
        gradient[..., -1] = (residuals * self.hidden(w)).sum(-1)
        return gradient.div_(self.samples)

    def loss(self, w):
        return self.residuals(w).square().sum(-1) / (2 * self.samples)

    def hessian_trace(self, w):
        return self._moment * w[..., -1].square() + self.hidden(w).square().sum(-1) / self.samples

    def trace_gradient(self, w):
        gradient = torch.empty_like(w)
        gradient[..., :-1] = 2 / self.samples * (self.hidden(w) @ self.X)
        gradient[..., -1] = 2 * self._moment * w[..., -1]
        return gradient


class MatrixSensing(LeastSquares):
    """``L(U) = sum_i (<A_i, U U^T> - y_i)**2 / (2 M)`` for a matrix U with n rows and k columns (paper, equation 80).

    A point is U, row by row, so ``dim = n * k``. A: (M, n, n), one set of measurements for all runs; or
    (seeds, M, n, n), one for each seed, for weights of shape (..., seeds, configurations, n * k). y: (M,) or
    (seeds, M). columns: k, as many as rows if not given. The loss sees only the symmetric parts of the A_i.
    """

    def __init__(self, A, y, columns=None):
        if A.dim() not in (3, 4) or A.shape[-1] != A.shape[-2]:
            raise ValueError(f"A is of shape {tuple(A.shape)}: give square matrices, (M, n, n) or (seeds, M, n, n).")
        symmetric = (A + A.mT) / 2
        self.n = A.shape[-1]
        self.columns = self.n if columns is None else columns
        self.dim, self.samples = self.n * self.columns, A.shape[-3]
        self.A, self.y = beside_configurations(symmetric.flatten(-2), y)
        traces = symmetric.diagonal(dim1=-2, dim2=-1).sum(-1)
        self.traces = traces if A.dim() == 3 else traces.unsqueeze(-2)  # as y
        # U counts through these two matrices in the Hessian trace: the sums of A_i^2 and of tr(A_i) A_i.
        sums = [(symmetric @ symmetric).sum(-3), (traces[..., None, None] * symmetric).sum(-3)]
        self._squares, self._weighted = (each.unsqueeze(-3) if A.dim() == 4 else each for each in sums)

    @classmethod
    def low_rank(cls, seeds, *, n=20, rank=5, M=100, test_samples=100, norm=1.0, label_noise=0.0, dtype=torch.float64):
        """The paper's problem, drawn anew for each seed: (training landscape, test landscape, the matrices X*).

        X* = V V^T with V of standard normal entries, n by rank, then scaled to the spectral norm ``norm`` (None leaves it
        as it is); X*: (seeds, n, n). The entries of the A_i are standard normal. The training targets are <A_i, X*> plus
        Gaussian noise of standard deviation ``label_noise``, the test targets are exact.
        """
        seeds = list(seeds)
        drawn = [low_rank_draws(seed, (n, rank), M + test_samples, M) for seed in seeds]
        V, A, noise = (torch.stack(parts) for parts in zip(*drawn))
        target = V @ V.mT
        if norm is not None:
            target = target * (norm / torch.linalg.matrix_norm(target, ord=2))[:, None, None]
        y = torch.einsum("smij,sij->sm", A, target)
        y[:, :M] += label_noise * noise
        A, y, target = A.to(dtype), y.to(dtype), target.to(dtype)
        return cls(A[:, :M], y[:, :M]), cls(A[:, M:], y[:, M:]), target

    def matrix(self, w):
        """U, shape (..., n, k)."""
        return w.unflatten(-1, (self.n, self.columns))

    def residuals(self, w):
        U = self.matrix(w)
        return product((U @ U.mT).flatten(-2), self.A.mT, minus=self.y)

    def pull_back(self, w, residuals):
        weighted = product(residuals, self.A, factor=2 / self.samples).unflatten(-1, (self.n, self.n))
        return (weighted @ self.matrix(w)).flatten(-2)

    def loss(self, w):
        return self.residuals(w).square().sum(-1) / (2 * self.samples)

    def hessian_trace(self, w):
        U = self.matrix(w)
        from_weights = 4 * (U * (self._squares @ U)).sum((-2, -1))
        from_residuals = 2 * self.columns * (self.residuals(w) * self.traces).sum(-1)
        return (from_weights + from_residuals) / self.samples

    def trace_gradient(self, w):
        total = 8 * self._squares + 4 * self.columns * self._weighted
        return (total @ self.matrix(w)).flatten(-2) / self.samples


def product(a, B, *, factor=1.0, minus=None):
    """``factor * a @ B - minus``; a single call where both are batches of one length, as in the steps of the engine."""
    if a.dim() == B.dim() == 3 and len(a) == len(B):
        if minus is None:
            return torch.baddbmm(a.new_zeros(()), a, B, beta=0, alpha=factor)
        return torch.baddbmm(minus, a, B, beta=-1, alpha=factor)
    result = factor * (a @ B)
    return result if minus is None else result - minus


def low_rank_draws(seed, shape, measurements, noisy):
    """V of this shape, measurement matrices, and noise for the first ``noisy`` of them, all standard normal."""
    generator = torch.Generator().manual_seed(seed)
    n = shape[0]
    sizes = (shape, (measurements, n, n), (noisy,))
    return [torch.randn(size, dtype=torch.float64, generator=generator) for size in sizes]


def beside_configurations(X, y):
    """The data, checked, with y given the axis of configurations where there is one data set for each seed."""
    if X.dim() not in (2, 3) or X.shape[:-1] != y.shape:
        raise ValueError(
            f"X is of shape {tuple(X.shape)} and y of {tuple(y.shape)}: give (M, features) and (M,), "
            "or one data set for each seed, (seeds, M, features) and (seeds, M)."
        )
    return X, y if X.dim() == 2 else y.unsqueeze(-2)


def standard_rows(seeds, sizes, features, dtype):
    """Standard normal data sets of the given sizes for each seed: tensors (seeds, size, features)."""
    rows = [
        torch.randn(sum(sizes), features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.stack(rows).to(dtype).split(sizes, dim=-2)
