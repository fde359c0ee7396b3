"""The estimated Hessian trace against the exact one, and what the estimate must leave alone."""

import contextlib
import copy
import math
import warnings
import weakref

import pytest
import torch
from scipy import stats
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from antipgd import curvature, hessian_trace
from antipgd.curvature import expected_sharpness, generators_for, random_signs, recomputed_statistics

CALLS = 200  # estimates whose intervals are counted
INTERVALS = [  # cuts into batches, settings, and the degrees of freedom of the error
    pytest.param((12,), {"probes": 15}, 14, id="one batch"),
    pytest.param((7, 4, 1), {"probes": 8}, 14, id="uneven batches"),
    pytest.param((7, 4, 1), {"probes": 500, "rel_error": 0.2}, 14, id="stopped at a wanted error"),
]


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def filled(model):
    """The model in float64, in training mode, with weights that do not depend on the global random state."""
    model = model.double().train()
    for i, p in enumerate(model.parameters()):
        p.data = normal(*p.shape, seed=100 + i)
    return model


def net():
    return filled(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))


def net_of_modes():
    """A network whose loss depends on the mode, with one part that its owner has put in eval mode."""
    model = filled(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)))
    model[1].running_mean.copy_(normal(4, seed=1))
    model[1].running_var.copy_(normal(4, seed=2).square() + 0.5)
    model[3].eval()
    return model


def batches(*sizes):
    sizes = sizes or (12,)
    inputs, targets = normal(sum(sizes), 3, seed=3), normal(sum(sizes), 2, seed=4)
    return list(zip(inputs.split(sizes), targets.split(sizes)))


mse = nn.functional.mse_loss


def mean_output(outputs, targets):
    return outputs.mean()


def broken(outputs, targets):
    raise FloatingPointError


class WithUnusedPart(nn.Module):
    """A network beside parameters that the loss never sees."""

    def __init__(self):
        super().__init__()
        self.unseen, self.seen = nn.Linear(2, 2), net()
        filled(self)

    def forward(self, x):
        return self.seen(x)


def partly_frozen():
    model = net()
    model[0].weight.requires_grad_(False)
    return model


def exact_hessian(model, loss, data):
    """The Hessian in eval mode of the mean loss over all data, in all parameters that want gradients, in one row."""
    inputs, targets = (torch.cat(parts) for parts in zip(*data))
    free = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    model = copy.deepcopy(model).eval()

    def of_flat(w):
        parts = w.split([p.numel() for p in free.values()])
        weights = {name: part.view_as(p) for (name, p), part in zip(free.items(), parts)}
        return loss(functional_call(model, weights, inputs), targets)

    return hessian(of_flat, torch.cat([p.flatten() for p in free.values()]))


def signs(model, probes, generator):
    """The signs of hessian_trace for one batch, one probe in a row."""
    free = [p for p in model.parameters() if p.requires_grad]
    return torch.stack([torch.cat([random_signs(p, generator).flatten() for p in free]) for _ in range(probes)])


def exact_forms(model, loss, data, probes, seed):
    """The quadratic forms of the exact Hessians of the batches, by their shares: (batches, probes)."""
    forms = []
    for batch, generator in zip(data, generators_for(data, seed)):
        v, share = signs(model, probes, generator), len(batch[0]) / sum(len(x) for x, _ in data)
        forms.append(share * torch.einsum("pi,ij,pj->p", v, exact_hessian(model, loss, [batch]), v))
    return torch.stack(forms)


@pytest.mark.parametrize("sizes", [(12,), (4, 4, 4), (7, 4, 1)])
@pytest.mark.parametrize(
    "make, loss",
    [
        pytest.param(net, mse, id="network"),
        pytest.param(net_of_modes, mse, id="network that depends on the mode"),
        pytest.param(partly_frozen, mse, id="frozen weights"),
        pytest.param(WithUnusedPart, mse, id="weights that the loss does not see"),
        pytest.param(net, mean_output, id="loss linear in the last layer, with a constant slope in its bias"),
    ],
)
def test_samples_are_quadratic_forms_of_the_exact_hessian(make, loss, sizes):
    model, data = make(), batches(*sizes)
    estimate = hessian_trace(model, loss, data, probes=6, seed=8)
    forms = exact_forms(model, loss, data, probes=6, seed=8)
    assert exact_hessian(model, loss, data).abs().max() > 0.01
    torch.testing.assert_close(estimate.samples, forms.sum(0), rtol=1e-11, atol=1e-11)
    by_batch = stats.sem(forms.numpy(), axis=1)
    assert estimate.stderr == pytest.approx((by_batch**2).sum() ** 0.5, rel=1e-9)


def test_signs_are_signs_and_those_of_the_batches_differ():
    first, second = (signs(net(), 2, generator) for generator in generators_for([1, 2], seed=8))
    assert set(first.unique().tolist()) == {-1, 1}
    assert first.equal(signs(net(), 2, torch.Generator().manual_seed(8)))
    assert 0.2 < (first == second).double().mean() < 0.8


def test_linear_loss_has_trace_zero():
    estimate = hessian_trace(filled(nn.Linear(3, 2)), mean_output, batches(), probes=3)
    assert estimate.samples.tolist() == [0, 0, 0]


def test_trace_of_a_diagonal_hessian_has_no_error():
    """Signs make the estimate of a diagonal Hessian exact: here sum of c_i w_i^2 / 2, whose trace is sum of c_i."""
    model = nn.Linear(3, 1, bias=False).double()
    c = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    estimate = hessian_trace(model, lambda outputs, targets: (c * model.weight**2).sum() / 2, batches(), probes=3)
    assert estimate.value == pytest.approx(4, rel=1e-12)
    assert estimate.stderr < 1e-12 and estimate.samples.shape == (3,)


def test_value_and_standard_error_are_those_of_the_samples():
    value, stderr, samples, _ = hessian_trace(net(), mse, batches(), probes=7)
    assert samples.shape == (7,) and samples.dtype == torch.float64
    assert value == pytest.approx(samples.numpy().mean(), rel=1e-12)
    assert stderr == pytest.approx(stats.sem(samples.numpy()), rel=1e-12)


@pytest.mark.parametrize("sizes, settings, freedom", INTERVALS)
def test_intervals_cover_the_exact_trace(sizes, settings, freedom):
    model, data, quantile = net(), batches(*sizes), stats.t.ppf(0.975, freedom)
    exact = exact_hessian(model, mse, data).trace().item()
    estimates = [hessian_trace(model, mse, data, **settings, seed=seed) for seed in range(CALLS)]
    covered = sum(abs(e.value - exact) < quantile * e.stderr for e in estimates) / CALLS
    assert 0.90 <= covered <= 0.99


def test_smaller_batches_have_the_smaller_error():
    """Even where they are all alike: then each is one more probe, and the variance is divided by their number."""
    (x, y), model = batches()[0], net()
    whole = hessian_trace(model, mse, [(x.repeat(6, 1), y.repeat(6, 1))], probes=150)
    cut = hessian_trace(model, mse, [(x, y)] * 6, probes=150)
    assert cut.stderr / whole.stderr == pytest.approx(6**-0.5, rel=0.15)
    assert abs(cut.value - whole.value) < 4 * math.hypot(cut.stderr, whole.stderr)


def test_trace_scales_with_the_loss():
    once = hessian_trace(net(), mse, batches(), probes=5)
    scaled = hessian_trace(net(), lambda outputs, targets: -3 * mse(outputs, targets), batches(), probes=5)
    torch.testing.assert_close(scaled.samples, -3 * once.samples, rtol=1e-12, atol=1e-12)


def test_seed_fixes_the_signs():
    first, again, other = (hessian_trace(net(), mse, batches(), probes=5, seed=seed) for seed in (1, 1, 2))
    assert first.samples.equal(again.samples)
    assert not first.samples.equal(other.samples)
    more = hessian_trace(net(), mse, batches(), probes=9, seed=1)
    torch.testing.assert_close(more.samples[:5], first.samples, rtol=1e-12, atol=1e-12)


def test_same_signs_at_nearby_weights_make_differences_precise():
    here, there = net(), net()
    with torch.no_grad():
        there[2].weight *= 1.01
    difference = hessian_trace(there, mse, batches()).samples - hessian_trace(here, mse, batches()).samples
    exact = (exact_hessian(there, mse, batches()) - exact_hessian(here, mse, batches())).trace().item()
    paired = difference.std().item() / len(difference) ** 0.5
    assert abs(difference.mean().item() - exact) < 4 * paired
    assert paired < hessian_trace(here, mse, batches()).stderr / 10


# --- Stopping at a wanted error ------------------------------------------------------------------------------------


def test_stops_at_the_wanted_error_and_not_long_after():
    estimate = hessian_trace(net(), mse, batches(4, 4, 4), probes=10_000, rel_error=0.1)
    assert estimate.stderr <= 0.1 * estimate.value
    least = len(estimate.samples) * (estimate.stderr / (0.1 * estimate.value)) ** 2
    assert len(estimate.samples) < 1.5 * least
    whole = hessian_trace(net(), mse, batches(4, 4, 4), probes=len(estimate.samples))
    torch.testing.assert_close(estimate.samples, whole.samples)  # the same probes, in rounds or at once


def test_an_easy_error_takes_few_probes():
    assert len(hessian_trace(net(), mse, batches(*(1,) * 12), probes=10_000, rel_error=10).samples) == 3
    assert len(hessian_trace(net(), mse, batches(), probes=5, rel_error=10).samples) == 5


def test_an_error_out_of_reach_is_said_with_what_would_do():
    with pytest.warns(RuntimeWarning, match=r"above 0.02 of it after 20 probes. About [\d.e+]+ would do") as caught:
        estimate = hessian_trace(net(), mse, batches(), probes=20, rel_error=0.02)
    assert len(estimate.samples) == 20 and estimate.stderr > 0.02 * abs(estimate.value)
    enough = int(float(str(caught[0].message).split("About ")[1].split()[0]) * 1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hessian_trace(net(), mse, batches(), probes=enough, rel_error=0.02)


@pytest.mark.filterwarnings("ignore:.*is above.*:RuntimeWarning")
def test_a_trace_that_is_no_number_does_not_stop_early():
    estimate = hessian_trace(net(), lambda out, y: mse(out, y) * math.inf, batches(), probes=25, rel_error=0.1)
    assert len(estimate.samples) == 25 and not math.isfinite(estimate.stderr)


@pytest.mark.parametrize("rel_error", [0, -0.1, math.nan])
def test_an_error_that_none_can_have_is_refused(rel_error):
    with pytest.raises(ValueError, match="rel_error is .* positive share"):
        hessian_trace(net(), mse, batches(), rel_error=rel_error)


# --- Expected sharpness -------------------------------------------------------------------------------------------


def test_sharpness_of_a_parabola_is_its_trace():
    """The loss sum of c_i (w_i - 1)^2 / 2 is raised by sigma^2 / 2 times the sum of c, whatever the slope."""
    model = filled(nn.Linear(3, 1, bias=False))
    c = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    sharpness = expected_sharpness(
        model, lambda out, y: (c * (model.weight - 1) ** 2).sum() / 2, batches(), 3.0, draws=4000, seed=1
    )
    assert abs(sharpness.value - 9 / 2 * 4) < 4 * sharpness.stderr < 3
    spread = 9 / 2 * (2 * c.square().sum()).sqrt().item()  # of sum of c_i xi_i^2 / 2: the slope's part has cancelled
    assert sharpness.stderr == pytest.approx(spread / 4000**0.5, rel=0.1)
    assert sharpness.by_parameter is None and sharpness.samples.shape == (4000,)


@pytest.mark.parametrize("sizes", [(12,), (7, 4, 1)])
def test_sharpness_is_half_the_variance_times_the_trace(sizes):
    model, data, sigma = net(), batches(*sizes), 1e-3
    sharpness = expected_sharpness(model, mse, data, sigma, draws=300)
    exact = sigma**2 / 2 * exact_hessian(model, mse, data).trace().item()
    assert abs(sharpness.value - exact) < 4 * sharpness.stderr < exact / 2


def test_sharpness_of_large_noise_is_that_of_plain_sampling():
    model, data, sigma, draws = net(), batches(7, 4, 1), 0.5, 2000
    sharpness = expected_sharpness(model, mse, data, sigma, draws=draws)
    x, y = batches()[0]
    noisy = torch.zeros(draws, dtype=torch.float64)
    for i in range(draws):
        named = enumerate(model.named_parameters())
        weights = {name: p + sigma * normal(*p.shape, seed=1000 * i + j) for j, (name, p) in named}
        noisy[i] = mse(functional_call(model, weights, x), y).item() - mse(model(x), y).item()
    exact = sigma**2 / 2 * exact_hessian(model, mse, data).trace().item()
    assert abs(sharpness.value - noisy.mean()) < 4 * math.hypot(sharpness.stderr, noisy.std() / draws**0.5)
    assert sharpness.value < exact - 6 * sharpness.stderr  # higher orders count


@pytest.mark.parametrize("loss", [mse, broken])
def test_sharpness_leaves_everything_as_it_was(loss):
    model = net_of_modes()
    before = everything(model)
    with pytest.raises(FloatingPointError) if loss is broken else contextlib.nullcontext():
        expected_sharpness(model, loss, batches(7, 5), 0.1)
    assert everything(model) == before


def test_seed_fixes_the_sharpness():
    first, again, other = (expected_sharpness(net(), mse, batches(7, 5), 0.1, draws=3, seed=seed) for seed in (1, 1, 2))
    assert first.samples.equal(again.samples) and not first.samples.equal(other.samples)


@pytest.mark.parametrize("change", [{"draws": 1}, {"batches": []}, {"model": nn.Tanh()}])
def test_no_sharpness_is_refused(change):
    arguments = {"model": net(), "batches": batches(), **change}
    with pytest.raises(ValueError, match="at least two draws, one batch and one parameter"):
        expected_sharpness(loss=mse, sigma=0.1, **arguments)


@pytest.mark.parametrize("sigma", [0, -1, math.inf, math.nan])
def test_a_strength_that_is_none_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma is .* positive number"):
        expected_sharpness(net(), mse, batches(), sigma)


# --- What is left alone -------------------------------------------------------------------------------------------


def everything(model):
    """All that belongs to a model and to the world around it, as values that can be compared."""
    return (
        [p.tolist() for p in model.parameters()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
        [b.tolist() for b in model.buffers()],
        [module.training for module in model.modules()],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("loss", [mse, broken])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_model_and_random_state_come_back_as_they_were(loss, with_gradients):
    model = net_of_modes()
    if with_gradients:
        mse(model.eval()(batches()[0][0]), batches()[0][1]).backward()
        model.train()[3].eval()
    before = everything(model)
    assert len(set(before[4])) == 2  # some modules train and some do not
    if loss is broken:
        with pytest.raises(FloatingPointError):
            hessian_trace(model, loss, batches())
    else:
        hessian_trace(model, loss, batches())
    assert everything(model) == before


def test_trace_is_that_of_eval_mode():
    training, evaluated = net_of_modes(), net_of_modes().eval()
    assert hessian_trace(training, mse, batches()).samples.equal(hessian_trace(evaluated, mse, batches()).samples)


def test_works_where_gradients_are_switched_off():
    expected = hessian_trace(net(), mse, batches(), probes=3)
    with torch.no_grad():
        assert hessian_trace(net(), mse, batches(), probes=3).samples.equal(expected.samples)


# --- Refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"probes": 1}, {"probes": 0}, {"batches": []}, {"model": nn.Tanh()}])
def test_nothing_to_estimate_is_refused(change):
    arguments = {"model": net(), "batches": batches(), **change}
    with pytest.raises(ValueError, match="at least two probes, one batch and one parameter with requires_grad"):
        hessian_trace(loss=mse, **arguments)


def test_frozen_model_is_refused():
    with pytest.raises(ValueError, match="one parameter with requires_grad"):
        hessian_trace(net().requires_grad_(False), mse, batches())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_with_the_way_out(dtype):
    with pytest.raises(ValueError, match=r"0.weight is in torch.*copy.deepcopy\(model\).float\(\)"):
        hessian_trace(net().to(dtype), mse, batches())


def test_parameters_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        model = nn.Linear(3, 2).double()
    with pytest.raises(ValueError, match="made in inference mode"):
        hessian_trace(model, mse, batches())


# --- Models and batches of every shape ----------------------------------------------------------------------------


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, left, right):
        return self.net(left + right)


def halves(inputs):
    return inputs / 4, inputs * 3 / 4


def test_inputs_may_be_several_and_targets_a_dictionary():
    expected = hessian_trace(net(), mse, batches(7, 4, 1), probes=3).samples
    tuples = [(halves(x), (y,)) for x, y in batches(7, 4, 1)]
    keywords = [(dict(zip(("left", "right"), halves(x))), {"y": y, "again": y}) for x, y in batches(7, 4, 1)]
    for data, loss in ((tuples, lambda out, y: mse(out, y[0])), (keywords, lambda out, y: mse(out, y["y"]))):
        torch.testing.assert_close(hessian_trace(TwoInputs(), loss, data, probes=3).samples, expected)


def test_samples_that_cannot_be_counted_are_asked_for():
    x, y = batches()[0]
    for targets in (None, 3.0, (y, y[:2]), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="cannot be counted.*weight=lambda"):
            hessian_trace(net(), lambda out, _: out.square().mean(), [(x, targets)])


def test_batches_count_by_the_terms_their_loss_is_the_mean_of():
    (x, _) = batches()[0]
    labels = torch.tensor([0, 1, -100, 1, 0, -100, -100, -100, 1, 0, 1, 1])
    loss = nn.CrossEntropyLoss()  # leaves out -100
    cut = [(x[:4], labels[:4]), (x[4:], labels[4:])]
    exact = exact_hessian(net(), loss, [(x, labels)]).trace().item()
    counted = hessian_trace(net(), loss, cut, probes=400, weight=lambda inputs, targets: (targets != -100).sum())
    assert abs(counted.value - exact) < 4 * counted.stderr
    plain, one = hessian_trace(net(), loss, cut, probes=400), [exact_hessian(net(), loss, [each]) for each in cut]
    by_samples = sum(H.trace().item() * len(y) / 12 for H, (_, y) in zip(one, cut))
    assert abs(plain.value - by_samples) < 4 * plain.stderr and abs(by_samples - exact) > 0.01 * exact


def test_parts_of_the_trace_by_parameter():
    model = net()
    estimate = hessian_trace(model, mse, batches(), probes=400)
    assert estimate.by_parameter.keys() == dict(model.named_parameters()).keys()
    torch.testing.assert_close(sum(estimate.by_parameter.values()), estimate.samples)
    H, start = exact_hessian(model, mse, batches()).diagonal(), 0
    for name, p in model.named_parameters():
        part = estimate.by_parameter[name]
        exact, start = H[start : start + p.numel()].sum(), start + p.numel()
        assert (part.mean() - exact).abs() <= 4 * part.std() / 20 + 1e-12


def test_signs_are_not_kept(monkeypatch):
    """Memory is constant in the number of probes: never are more signs alive than those of two probes."""
    alive, most = weakref.WeakValueDictionary(), 0

    def counting(p, generator):
        nonlocal most
        made = random_signs(p, generator)
        alive[id(made)] = made
        most = max(most, len(alive))
        return made

    monkeypatch.setattr(curvature, "random_signs", counting)
    hessian_trace(net(), mse, batches(), probes=30)
    assert most <= 2 * len(list(net().parameters()))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(6, 18), nn.Linear(6, 2)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v)).mean(1)


def attention_data(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(4, 5, 6, generator=generator).to(dtype), torch.randn(4, 2, generator=generator).to(dtype))]


def test_attention_has_a_trace():
    model = filled(Attention())
    got = hessian_trace(model, mse, attention_data(torch.float64), probes=4, seed=2).samples
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        forms = exact_forms(model, mse, attention_data(torch.float64), probes=4, seed=2)
    torch.testing.assert_close(got, forms[0])


def counting_backend():
    """A backend for torch.compile, and the list of what it has compiled."""
    compiled = []

    def backend(graph, example_inputs):
        compiled.append(graph)
        return graph

    return backend, compiled


def test_a_compiled_model_has_the_trace_of_its_module():
    model, (backend, compilations) = net(), counting_backend()
    expected = hessian_trace(model, mse, batches(), probes=3).samples
    compiled = torch.compile(model, backend=backend)
    compiled(batches()[0][0])
    before = len(compilations)
    torch.testing.assert_close(hessian_trace(compiled, mse, batches(), probes=3).samples, expected)
    assert len(compilations) == before > 0


def test_autocast_inference_mode_and_defaults_around_it_do_not_matter():
    model, data = filled(Attention()).float(), attention_data()
    expected = hessian_trace(model, mse, data, probes=3).samples
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert hessian_trace(model, mse, data, probes=3).samples.equal(expected)
    with torch.inference_mode():
        inside = [(x.clone(), y.clone()) for x, y in data]
        assert hessian_trace(model, mse, inside, probes=3).samples.equal(expected)
    torch.set_default_device("meta")
    try:
        assert hessian_trace(model, mse, data, probes=3).samples.equal(expected)
    finally:
        torch.set_default_device(None)


# --- BatchNorm's statistics ---------------------------------------------------------------------------------------


class TwoNorms(nn.Module):
    """Two normalisations, the second one used twice, beside dropout and a part in eval mode."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.twice = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, momentum=0.3)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(4, 2)
        filled(self)
        self.head.eval()

    def forward(self, x):
        h = self.second(self.first(x))
        return self.head(self.dropout(self.twice(h) + self.twice(2 * h)))


def statistics(layer):
    return layer.running_mean.clone(), layer.running_var.clone()


def inputs(*sizes):
    return [x for x, _ in batches(*sizes)]


def test_statistics_of_one_batch_are_exactly_those_of_the_data():
    model, (x,) = TwoNorms(), inputs(12)
    with torch.no_grad():
        h = model.first(x)
        normed = (h - h.mean(0)) / (h.var(0, correction=0) + model.second.eps).sqrt()
        normed = normed * model.second.weight + model.second.bias
    with recomputed_statistics(model, [x]):
        torch.testing.assert_close(statistics(model.second), (h.mean(0), h.var(0)))
        both = normed.mean(0) * 3 / 2, normed.var(0) * 5 / 2  # the mean over both uses
        torch.testing.assert_close(statistics(model.twice), both)


def test_batches_count_by_their_size():
    model, parts = TwoNorms(), inputs(7, 3, 2)
    with torch.no_grad():
        h = [model.first(x) for x in parts]
    mean = sum(len(x) * each.mean(0) for x, each in zip(parts, h)) / 12
    var = sum(len(x) * each.var(0) for x, each in zip(parts, h)) / 12
    with recomputed_statistics(model, iter(parts)):
        torch.testing.assert_close(statistics(model.second), (mean, var))
    assert not torch.allclose(mean, sum(each.mean(0) for each in h) / 3)


def test_statistics_are_those_of_the_weights_as_they_are_and_not_of_earlier_ones():
    model, data = TwoNorms(), inputs(12)
    with recomputed_statistics(model, data):
        before = statistics(model.second)
    for layer in (model.second, model.twice):
        layer.running_mean.fill_(float("nan"))
    with recomputed_statistics(model, data):
        torch.testing.assert_close(statistics(model.second), before)
        model.first.bias.data += 1
        with recomputed_statistics(model, data):
            torch.testing.assert_close(statistics(model.second)[0], before[0] + 1)
        torch.testing.assert_close(statistics(model.second), before)


@pytest.mark.parametrize("where", ["pass", "block", "nowhere"])
def test_statistics_modes_and_momenta_come_back(where):
    model, data = TwoNorms(), inputs(6, 6)
    data = [data[0], data[1][:, :2]] if where == "pass" else data
    before, momenta = everything(model), (model.second.momentum, model.twice.momentum)
    refused = pytest.raises(RuntimeError) if where != "nowhere" else contextlib.nullcontext()
    with refused, recomputed_statistics(model, data):
        assert [m.training for m in model.modules()] == before[4]
        assert (model.second.momentum, model.twice.momentum) == momenta
        assert everything(model)[3] != before[3]
        if where == "block":
            raise RuntimeError
    assert everything(model) == before and (model.second.momentum, model.twice.momentum) == momenta
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_layers_frozen_by_their_owner_keep_their_statistics():
    model, data = TwoNorms(), inputs(12)
    model.second.eval()
    frozen, free = statistics(model.second), statistics(model.twice)
    with recomputed_statistics(model, data):
        torch.testing.assert_close(statistics(model.second), frozen)
        assert not torch.allclose(model.twice.running_mean, free[0])
    model.eval()  # where nothing trains, none is an exception
    with recomputed_statistics(model, data):
        assert not torch.allclose(model.second.running_mean, frozen[0])


def test_a_model_without_statistics_takes_no_pass():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))
    with recomputed_statistics(model, ("not an input" for _ in range(1))):
        pass


def test_no_batches_are_refused():
    model = TwoNorms()
    before = everything(model)
    with pytest.raises(ValueError, match="at least one batch"), recomputed_statistics(model, []):
        pass
    assert everything(model) == before


def test_a_compiled_model_has_the_statistics_of_its_module():
    model, data, (backend, compilations) = TwoNorms(), inputs(7, 5), counting_backend()
    with recomputed_statistics(model, data):
        expected = statistics(model.twice)
    compiled = torch.compile(model, backend=backend)
    compiled(data[0])
    before = len(compilations)
    with recomputed_statistics(compiled, data):
        torch.testing.assert_close(statistics(model.twice), expected)
    assert len(compilations) == before > 0


def test_trace_with_statistics_of_the_data_does_not_know_of_those_kept():
    model, other = net_of_modes(), net_of_modes()
    other[1].running_var.mul_(100)
    with recomputed_statistics(model, inputs()), recomputed_statistics(other, inputs()):
        first, second = (hessian_trace(each, mse, batches(), probes=3).samples for each in (model, other))
    torch.testing.assert_close(first, second)
    assert not torch.allclose(hessian_trace(other, mse, batches(), probes=3).samples, first)
