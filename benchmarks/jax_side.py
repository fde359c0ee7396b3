"""The same runs in JAX: one step by hand, scanned over the steps, vmapped over methods and seeds, compiled by jit.

The methods of a seed share its draws, as in the engine: one xi and one data point per step and seed. Two ways to draw:
at each step, as one writes a scan, and 64 steps at once, as the engine does. JAX's default generator in both.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"  # read at the import

import jax
import jax.numpy as jnp
import numpy as np
import torch

BLOCK = 64


def regression_gradient(X, y, w, weights):
    residuals = (X @ w**2 - y) * weights
    return (residuals @ X) * w / len(y)


def sensing_gradient(A, y, w, weights):
    n = A.shape[-1]
    U, flat = w.reshape(n, n), A.reshape(len(y), n * n)
    residuals = (flat @ (U @ U.T).reshape(-1) - y) * weights
    return 2 / len(y) * ((residuals @ flat).reshape(n, n) @ U).reshape(-1)


GRADIENTS = {"regression": regression_gradient, "matrix sensing": sensing_gradient}


def runs(problem, seeds):
    """Actions by name, each all runs of the problem; compiled, and their gradient compared with the engine's."""
    A, y, w0 = (jnp.asarray(np.ascontiguousarray(part)) for part in (*problem.data, problem.w0[:, 0]))
    gradient = GRADIENTS[problem.name]
    check_gradient(problem, gradient, A, y)
    lr, sigma, cancel = (jnp.array([getattr(m, name) for m in problem.methods]) for name in ("lr", "sigma", "cancel"))
    stochastic = jnp.array([m.batch_size is not None for m in problem.methods])
    keys = jax.random.split(jax.random.key(0), seeds)
    samples, dim = y.shape[-1], w0.shape[-1]

    def step(A, y, w, old, new, row):
        """One step of all methods of a seed."""

        def of_one_method(w, lr, sigma, cancel, stochastic):
            weights = jnp.where(stochastic, samples * jax.nn.one_hot(row, samples), 1.0)
            return w - lr * gradient(A, y, w, weights) + sigma * (new - cancel * old)

        return jax.vmap(of_one_method)(w, lr, sigma, cancel, stochastic)

    def draws(key, *count):
        noise, rows = jax.random.split(key)
        return jax.random.normal(noise, (*count, dim)), jax.random.randint(rows, count, 0, samples)

    def draw_each_step(key, A, y, w):
        def one(carry, key):
            new, row = draws(key)
            return (step(A, y, *carry, new, row), new), None

        return jax.lax.scan(one, (w, jnp.zeros(dim)), jax.random.split(key, problem.steps))[0][0]

    def draw_in_blocks(key, A, y, w):
        def one(carry, drawn):
            return (step(A, y, *carry, *drawn), drawn[0]), None

        def block(carry, key):
            return jax.lax.scan(one, carry, draws(key, BLOCK))

        return jax.lax.scan(block, (w, jnp.zeros(dim)), jax.random.split(key, problem.steps // BLOCK))[0][0]

    def action(all_steps):
        compiled = jax.jit(jax.vmap(all_steps))
        start = jnp.repeat(w0[:, None], len(problem.methods), axis=1)
        return lambda: compiled(keys, A, y, start).block_until_ready()

    return {"JAX, draws at each step": action(draw_each_step), "JAX, draws in blocks": action(draw_in_blocks)}


def check_gradient(problem, gradient, A, y):
    w = torch.randn(problem.w0.shape, generator=torch.Generator().manual_seed(0))
    got = jax.vmap(gradient, (0, 0, 0, None))(A, y, jnp.asarray(w[:, 0].numpy()), 1.0)
    expected = problem.train.gradient(w)[:, 0]
    scale = expected.abs().max().item()
    np.testing.assert_allclose(np.asarray(got) / scale, expected.numpy() / scale, atol=1e-5)
