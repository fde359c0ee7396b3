"""The interactive figure: its numbers against the Python module, and its controls in a browser, by hand and by key."""

import base64
import json
import re
import sys
import types
from dataclasses import asdict

import nbformat
import pytest
import torch
import traitlets
from notebooks import BOOK

from antipgd import theory
from antipgd.book import playground
from antipgd.book.playground import CURVATURES, Setting
from antipgd.dynamics import BLOCK, Method, Stepper, run
from antipgd.landscapes import Landscape, WideningValley
from antipgd.noise import LAWS

SMALL, LARGE = 390, 1280
NUMERICS = "simulate, draws, valley, quadratic, landscapeOf, CURVATURES, compute, inWords, told, plainModel"


class Quadratic(Landscape):
    """Two weights with the curvatures of the figure's quadratic."""

    dim = 2
    curvatures = torch.tensor(CURVATURES, dtype=torch.float64)

    def gradient(self, w):
        return self.curvatures * w


def document(body, style=""):
    return f'<!doctype html><html><meta charset="utf-8"><body style="margin: 16px; {style}">{body}</body></html>'


@pytest.fixture(scope="module")
def numerics(browser):
    """A page on which the module's functions stand in ``window.figure``."""
    page = browser.new_page()
    page.set_content(document(f'<script type="module">{playground.module()}\nwindow.figure = {{ {NUMERICS} }};</script>'))
    page.wait_for_function("window.figure")
    return page


@pytest.fixture
def shown(browser):
    """A function that opens the figure at a setting, in a context of its own."""
    contexts = []

    def open_at(setting=None, *, width=LARGE, style="", **context):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **context))
        page = contexts[-1].new_page()
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.complaints = []
        page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.set_content(document(playground.figure(**(setting or {}))._repr_html_(), style))
        said(page)
        return page

    yield open_at
    for context in contexts:
        context.close()


def drawn(page):
    """Wait until the page has drawn what it was told: it does so before the next picture."""
    page.evaluate("new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)))")


def said(page):
    """The sentence with the results, once it has been said."""
    page.wait_for_function("document.querySelector('.said')?.textContent")
    page.evaluate("new Promise(go => requestAnimationFrame(() => setTimeout(go, 350)))")  # the page's clock, not ours
    return page.locator(".said").inner_text()


def numbers(page):
    """Its numbers by method."""
    return {name: float(value) for name, value in re.findall(r"(GD|PGD|Anti-PGD) ([\d.]+)(?=[,;.])", said(page))}


# --- The numbers ------------------------------------------------------------------------------------------------

SIMULATE = """([d, method, start, noise]) => {
    const { simulate, valley, quadratic } = window.figure, seen = [[], []];
    simulate(d ? valley(d) : quadratic(), method, start, Float64Array.from(noise), (n, w, z) => {
        seen[0].push(Array.from(w));
        seen[1].push(Array.from(z));
    });
    return seen;
}"""


def recorded_noise(landscape, method, w0, law, seed, steps):
    """The draws of ``run`` for one seed, (steps, dim), before they are multiplied by sigma."""
    stepper, blocks = Stepper(landscape, [method], [seed], law, w0), []
    for _ in range(-(-steps // BLOCK)):
        stepper.draw_block()
        blocks.append(stepper.xi[1:, 0, 0].clone())
    return torch.cat(blocks)[:steps]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("cancel", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("d", [1, 10, None])
def test_its_steps_are_those_of_the_module_on_the_same_noise(numerics, d, cancel, law):
    landscape = WideningValley(d) if d else Quadratic()
    w0 = torch.linspace(0.4, 0.9, landscape.dim, dtype=torch.float64)
    method, steps = Method("dial", 0.1, sigma=0.05, cancel=cancel), 300
    expected = run(landscape, w0, [method], steps, seeds=[3], law=law, record=range(steps + 1))
    noise = recorded_noise(landscape, method, w0, law, 3, steps)
    options = {"eta": 0.1, "sigma": 0.05, "cancel": cancel}
    seen = numerics.evaluate(SIMULATE, [d, options, w0.tolist(), noise.flatten().tolist()])
    w, z = torch.tensor(seen, dtype=torch.float64)
    assert (w - expected.w[:, 0, 0]).abs().max() < 1e-12
    assert (z - expected.z[:, 0, 0]).abs().max() < 1e-12
    assert (w[-1] - w0).abs().max() > 0.1  # something happened


def test_a_run_that_explodes_is_reported_at_the_same_step(numerics):
    w0, steps = torch.tensor([1.0, 0.5], dtype=torch.float64), 100
    method = Method("PGD", 0.5, sigma=2.0)
    noise = recorded_noise(WideningValley(1), method, w0, "gaussian", 0, steps)
    lost = numerics.evaluate(
        """([start, noise]) => window.figure.simulate(window.figure.valley(1), { eta: 0.5, sigma: 2, cancel: 0 },
            start, Float64Array.from(noise), () => {})""",
        [w0.tolist(), noise.flatten().tolist()],
    )
    assert lost == run(WideningValley(1), w0, [method], steps, seeds=[0]).diverged_at.item() > 0


@pytest.mark.parametrize("law", LAWS)
def test_its_own_draws_have_the_moments_of_their_law(numerics, law):
    many = numerics.evaluate("law => Array.from(window.figure.draws(law, 1, 200001))", law)
    x = torch.tensor(many, dtype=torch.float64)
    standard_error = len(x) ** -0.5
    assert x.mean().abs() < 4 * standard_error
    assert (x.square().mean() - 1).abs() < 6 * standard_error
    assert (x**4).mean() == pytest.approx(theory.KURTOSIS[law], abs=40 * standard_error)
    assert (x[1:] * x[:-1]).mean().abs() < 4 * standard_error


def test_a_seed_gives_the_same_draws_and_another_seed_others(numerics):
    a, again, b = (numerics.evaluate(f"Array.from(window.figure.draws('gaussian', {seed}, 1000))") for seed in (5, 5, 6))
    assert a == again
    assert torch.corrcoef(torch.tensor([a, b]))[0, 1].abs() < 0.15


LEVEL = "([setting, method, D, atZ]) => window.figure.landscapeOf(setting).level(method, D, atZ)"


@pytest.mark.parametrize("cancel", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("eta, sigma, d", [(0.1, 0.1, 10), (0.02, 0.3, 2), (0.4, 0.05, 50)])
def test_the_levels_of_the_valley_are_those_of_the_theory(numerics, cancel, eta, sigma, d):
    setting = asdict(Setting(eta=eta, sigma=sigma, dimension=d))
    method = {"eta": eta, "sigma": sigma, "cancel": cancel, "law": "uniform"}
    at_w, at_z = (numerics.evaluate(LEVEL, [setting, method, 1.0, at_z]) for at_z in (0, 1))
    plateau, floor = theory.dial_plateau(eta, d, cancel), d * sigma**2
    assert at_w[0] == pytest.approx(plateau + floor, rel=1e-12)
    if cancel == 1:
        assert at_z[0] == pytest.approx(theory.KURTOSIS["uniform"] * eta * sigma**2 / 2 * floor, rel=1e-12)
        assert at_w[1] == 2 * floor  # the trace
    else:
        assert at_z[0] == pytest.approx(plateau + (1 - cancel) ** 2 * floor, rel=1e-12)


@pytest.mark.parametrize("cancel", [0.0, 0.5, 1.0])
def test_the_levels_and_moments_of_the_quadratic_are_those_of_the_theory(numerics, cancel):
    eta, sigma, rhos = 0.3, 0.2, 1 - 0.3 * torch.tensor(CURVATURES, dtype=torch.float64)
    assert numerics.evaluate("window.figure.CURVATURES") == list(CURVATURES)
    setting, method = asdict(Setting(landscape="quadratic")), {"eta": eta, "sigma": sigma, "cancel": cancel}
    for at_z in (0, 1):
        variances = theory.dial_variance(rhos, cancel, sigma, taken=at_z * cancel)
        length, loss = numerics.evaluate(LEVEL, [setting, method, None, at_z])
        assert length == pytest.approx(variances.sum().item(), rel=1e-12)
        assert loss == pytest.approx((Quadratic.curvatures * variances).sum().item() / 2, rel=1e-12)
    start = torch.tensor(numerics.evaluate("window.figure.quadratic().start"), dtype=torch.float64)
    for n in (1, 2, 7):
        after = numerics.evaluate("([m, n]) => window.figure.quadratic().expected(m, null, n, 0)[0]", [method, n])
        moments = [theory.saddle_moment(n, rho, cancel, sigma) for rho in rhos.tolist()]
        assert after == pytest.approx(sum(moments) + (start * rhos**n).square().sum().item(), rel=1e-12)


@pytest.mark.parametrize("setting", [{}, {"landscape": "quadratic", "sigma": 0.3}, {"dimension": 2, "eta": 0.3}])
def test_python_and_the_browser_predict_the_same_in_words(numerics, setting):
    setting = Setting(**setting)
    methods = [{"eta": setting.eta, "sigma": setting.sigma, "cancel": c, "law": setting.law} for c in (0, 1)]
    levels = [numerics.evaluate(LEVEL, [asdict(setting), method, 1.0, 0])[0] for method in methods]
    assert playground.long_run(setting) == pytest.approx(levels, rel=1e-12)
    for level in levels:
        assert f"{level:.3g}" in playground.in_words(setting)


def test_its_runs_come_to_the_predicted_levels(numerics):
    """The mean of the second half of long runs, as a check of the whole chain from draws to measures."""
    mean = """s => window.figure.compute(s).runs.map(run => {
        const U = run.at[0].measures[0].slice(-1500);
        return U.reduce((sum, x) => sum + x) / U.length;
    })"""
    setting = Setting(steps=30000, law="rademacher")
    gd, pgd, anti = numerics.evaluate(mean, asdict(setting))
    for found, level in zip((pgd, anti), playground.long_run(setting)):
        assert found == pytest.approx(level, rel=0.1)
    assert 0.8 < gd < 1


@pytest.mark.parametrize("x, words", [(0.1, "0.1"), (15.04, "15"), (1234, "1230"), (2e-7, "2.0·10⁻⁷"), (0, "0")])
def test_numbers_as_a_reader_writes_them(numerics, x, words):
    assert numerics.evaluate("x => window.figure.told(x)", x) == words


# --- The figure -------------------------------------------------------------------------------------------------

PATHS = "[...document.querySelectorAll('[data-plot=map] .line')].map(line => line.getAttribute('points')).join()"


def test_it_is_small_and_asks_nothing_of_a_network(shown):
    page = shown()
    assert len(playground.figure()._repr_html_().encode()) < 60_000
    assert page.asked == [] and page.complaints == []


@pytest.mark.parametrize("setting", [{}, {"landscape": "quadratic", "cancel": 0.5}, {"eta": 0.5, "sigma": 0.5}])
@pytest.mark.parametrize("width", [340, SMALL, LARGE])  # a page leaves it less than the window
def test_it_fits_the_window_and_its_words_can_be_read(shown, setting, width):
    page = shown(setting, width=width)
    assert page.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate("""[...document.querySelectorAll(".apg :not(svg *)")].filter(e => e.getBoundingClientRect().right
        > document.querySelector(".apg").getBoundingClientRect().right + 1).map(e => e.outerHTML)""")
    assert wide == []
    sizes = page.evaluate("""[...document.querySelectorAll(".apg svg text")].map(e => {
        const svg = e.ownerSVGElement, scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
        return parseFloat(getComputedStyle(e).fontSize) * (svg.viewBox.baseVal.width ? scale : 1);
    })""")
    assert len(sizes) > 20 and min(sizes) >= 11.9
    cut = page.evaluate("""[...document.querySelectorAll(".apg svg text")].filter(e => {
        const a = e.getBoundingClientRect(), b = e.ownerSVGElement.getBoundingClientRect();
        return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
    }).map(e => e.textContent)""")
    assert cut == []


CONTRAST = """dark => {
    const luminance = color => {
        const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = color => {
        const [a, b] = [luminance(color), luminance(dark ? "rgb(18, 18, 18)" : "rgb(255, 255, 255)")].sort((x, y) => x - y);
        return (b + 0.05) / (a + 0.05);
    };
    const least = (query, name) => Math.min(...[...document.querySelectorAll(query)].map(e => ratio(getComputedStyle(e)[name])));
    return [least(".apg :is(label, legend, .said, output, button, select, input, small)", "color"),
        least(".apg svg text", "fill"), least(".apg :is(.line, .axis, .theory)", "stroke"),
        least(".apg .mark, .apg .handle circle:not(.ring)", "fill")];
}"""


@pytest.mark.parametrize("dark", [False, True])
def test_words_and_lines_stand_out_from_their_ground(shown, dark):
    page = shown({"cancel": 0.5}, style="background: #121212; color: #ced6dd;" if dark else "color: #323232;")
    assert page.evaluate("document.querySelector('.apg').classList.contains('dark')") == dark
    words, labels, lines, marks = page.evaluate(CONTRAST, dark)
    assert min(words, labels) >= 4.5 and min(lines, marks) >= 3


def test_it_follows_a_change_of_the_theme(shown):
    page = shown(style="background: white; color: black;")
    page.evaluate("document.body.style.cssText = 'background: black; color: white'")
    page.wait_for_function("document.querySelector('.apg').classList.contains('dark')")


def test_three_ends_are_seen_apart(shown):
    page = shown(width=SMALL)
    places = page.evaluate("""[...document.querySelectorAll("[data-plot=map] .mark")].map(e => {
        const { left, right, top, bottom } = e.getBoundingClientRect();
        return [(left + right) / 2, (top + bottom) / 2];
    })""")
    assert len(places) == 3
    apart = torch.pdist(torch.tensor(places))
    assert apart.min() > 14  # pixels, more than a mark is wide
    names = page.locator("[data-plot=map] text.strong").all_text_contents()
    assert names == ["GD", "PGD", "Anti-PGD"]
    found = numbers(page)
    assert found["Anti-PGD"] < found["GD"] / 2 < 2 * found["GD"] < found["PGD"]


def test_it_says_what_came_out_and_what_overflowed(shown):
    assert "overflowed at step" in said(shown({"eta": 0.5, "sigma": 0.5}))
    assert "predicted in the long run 15" in said(shown())
    page = shown({"cancel": 0.5})
    assert "dial (c = 0.5)" in said(page)
    assert page.locator(".said").get_attribute("aria-live") == "polite"


def test_every_control_has_a_name_and_shows_where_the_keyboard_is(shown):
    page = shown()
    sliders = ["step n", "step size η", "noise σ", "dial: share c taken back", "dimension d of u", "number of steps"]
    for role, names in {
        "slider": [*sliders, "Step size and noise"],
        "radio": ["widening valley", "quadratic", "‖u‖²", "trace of the Hessian", "w, with noise", "z, without"],
        "combobox": ["law of the noise"],
        "spinbutton": ["seed"],
        "button": ["Play", "Draw anew"],
        "img": ["Map of the landscape with the paths of the methods", "‖u‖² over the steps"],
    }.items():
        for name in names:
            assert page.get_by_role(role, name=name, exact=True).count() == 1, name
        assert page.get_by_role(role).count() == len(names), role
    assert page.get_by_role("slider", name="step size η").get_attribute("aria-valuetext") == "0.1"
    stops = 0
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement !== document.body"):
        width = page.evaluate("""(e => e.matches(".handle") ? getComputedStyle(e.querySelector(".ring")).strokeWidth
            : getComputedStyle(e).outlineWidth)(document.activeElement)""")
        assert width == "3px", page.evaluate("document.activeElement.outerHTML")
        stops += 1
        page.keyboard.press("Tab")
    assert stops == 14  # a group of radio buttons is one


def test_the_keyboard_sets_everything(shown):
    page = shown()
    before = page.evaluate(PATHS)
    for name, key in [("step size η", "ArrowRight"), ("noise σ", "ArrowLeft"), ("dial: share c taken back", "ArrowLeft"),
                      ("dimension d of u", "ArrowRight"), ("number of steps", "ArrowLeft")]:
        control = page.get_by_role("slider", name=name)
        told = control.get_attribute("aria-valuetext")
        control.press(key)
        control.press(key)
        page.wait_for_function("([e, told]) => e.getAttribute('aria-valuetext') !== told", arg=[control.element_handle(), told])
        after = page.evaluate(PATHS)
        assert after != before, name
        before = after
    handle = page.get_by_role("slider", name="Step size and noise")
    for key in ("ArrowUp", "ArrowRight"):
        told = handle.get_attribute("aria-valuetext")
        handle.press(key)
        page.wait_for_function("([e, told]) => e.getAttribute('aria-valuetext') !== told", arg=[handle.element_handle(), told])
    page.get_by_role("radio", name="widening valley").press("ArrowRight")
    page.wait_for_function("document.querySelector('[data-plot=map]').textContent.includes('steep')")
    assert page.get_by_role("slider", name="dimension d of u").count() == 0  # the quadratic has two weights


def test_seed_law_and_place_change_what_is_shown(shown):
    page = shown()
    seen = [page.evaluate(PATHS)]
    page.get_by_role("button", name="Draw anew").click()
    drawn(page)
    seen.append(page.evaluate(PATHS))
    page.get_by_role("combobox").select_option("rademacher")
    drawn(page)
    seen.append(page.evaluate(PATHS))
    assert len(set(seen)) == 3
    page.get_by_role("spinbutton").fill("0")
    page.get_by_role("spinbutton").press("Enter")
    page.get_by_role("combobox").select_option("gaussian")
    drawn(page)
    assert page.evaluate(PATHS) == seen[0]
    at_w = numbers(page)
    page.get_by_role("radio", name="z, without").check()
    assert numbers(page)["Anti-PGD"] < at_w["Anti-PGD"] and numbers(page)["PGD"] == at_w["PGD"]
    page.get_by_role("radio", name="trace of the Hessian").check()
    assert "trace of the Hessian at z" in said(page)


def middle(page):
    area = page.locator(".catch").bounding_box()
    return area["x"] + area["width"] / 2, area["y"] + area["height"] / 2


def chosen(page):
    return [float(page.locator(f"[data-shown={name}]").inner_text()) for name in ("eta", "sigma")]


def test_dragging_in_the_plane_sets_step_size_and_noise(shown):
    page = shown()
    x, y = middle(page)
    page.mouse.move(x, y)
    page.mouse.down()
    drawn(page)
    assert chosen(page) == pytest.approx([(0.01 * 0.5) ** 0.5] * 2, rel=0.06)  # shown with two digits
    page.mouse.move(x - 500, y - 500)
    page.mouse.up()
    drawn(page)
    assert chosen(page) == [0.01, 0.5]  # the edge of the plane
    page.mouse.move(x, y)
    drawn(page)
    assert chosen(page) == [0.01, 0.5]


def test_a_finger_drags_in_the_plane_and_does_not_scroll_the_page(shown):
    page = shown(width=SMALL, has_touch=True, is_mobile=True)
    page.locator("[data-plot=pad]").scroll_into_view_if_needed()
    x, y = middle(page)
    top = page.evaluate("scrollY")
    touch = page.context.new_cdp_session(page)

    def send(kind, *points):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    send("touchStart", (x, y))
    for i in range(1, 9):
        send("touchMove", (x + 5 * i, y - 5 * i))
    send("touchEnd")
    drawn(page)
    eta, sigma = chosen(page)
    assert eta > 0.1 and sigma > 0.1
    assert page.evaluate("scrollY") == top


def test_play_grows_the_paths_and_ends_at_the_last_step(shown):
    page = shown({"steps": 300})
    page.get_by_role("slider", name="step n").fill("260")
    drawn(page)
    part = page.evaluate(PATHS)
    page.get_by_role("button", name="Play").click()
    assert page.get_by_role("button", name="Pause").count() == 1
    page.get_by_role("button", name="Play").wait_for()
    assert page.get_by_role("slider", name="step n").input_value() == "300"
    assert len(page.evaluate(PATHS)) > len(part)
    assert "After 300 steps" in said(page)


def test_nothing_moves_by_itself_and_under_reduced_motion_nothing_can(shown):
    page = shown(reduced_motion="reduce")
    assert page.get_by_role("button", name="Play").count() == 0
    before = page.evaluate("document.querySelector('.apg').innerHTML")
    page.wait_for_timeout(600)
    assert page.evaluate("document.querySelector('.apg').innerHTML") == before
    assert page.evaluate("document.getAnimations().length") == 0
    styles = page.evaluate("""[...document.querySelectorAll(".apg *")]
        .filter(e => getComputedStyle(e).transitionDuration !== "0s" || getComputedStyle(e).animationName !== "none").length""")
    assert styles == 0
    page.emulate_media(reduced_motion="no-preference")
    page.get_by_role("button", name="Play").wait_for()
    assert page.evaluate("document.getAnimations().length") == 0


# --- In pages, notebooks and as a widget ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["intro", "widening_valley"])
def test_the_output_that_the_chapter_stores_is_alive(browser, name):
    cells = nbformat.read(BOOK / f"{name}.ipynb", as_version=4).cells
    html = [o.data["text/html"] for c in cells for o in c.get("outputs", ()) if "apg-place" in str(o.get("data", {}).get("text/html"))]
    assert len(html) == 1
    page = browser.new_page()
    page.set_content(document(html[0]))
    found = numbers(page)
    assert found["Anti-PGD"] < found["GD"] < found["PGD"]
    page.close()


def test_without_scripts_its_place_says_what_is_predicted(browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(document(playground.figure()._repr_html_()))
    pgd, anti = playground.long_run(Setting())
    assert f"about {pgd:.3g} for PGD and {anti:.3g} for Anti-PGD" in page.locator(".apg-place").inner_text()
    assert repr(playground.figure()) in page.locator(".apg-place").inner_text()
    context.close()


MODEL = """
const values = SETTING, heard = {};
window.model = {
    values, saved: 0, heard,
    get: name => values[name],
    set(name, value) { values[name] = value; for (const act of heard[`change:${name}`] ?? []) act(); },
    save_changes() { this.saved++; },
    on(kind, act) { (heard[kind] ??= []).push(act); },
    off(kind, act) { heard[kind] = heard[kind].filter(other => other !== act); },
};
import("data:text/javascript;base64," + CODE).then(module => {
    window.end = module.default.render({ model: window.model, el: document.getElementById("place") });
});
"""


def test_as_a_widget_it_follows_its_model_and_is_followed_by_it(browser):
    """The shape that anywidget asks for: render({ model, el }), which returns how to take the figure down."""
    code = json.dumps(base64.b64encode(playground.module().encode()).decode())
    script = MODEL.replace("SETTING", json.dumps(asdict(Setting()))).replace("CODE", code)
    page = browser.new_page()
    page.set_content(document(f'<div id="place"></div><script type="module">{script}</script>'))
    before = said(page)
    page.get_by_role("slider", name="dimension d of u").press("ArrowRight")
    page.wait_for_function("model.values.dimension === 20 && model.saved === 1")
    changed = said(page)
    page.evaluate("model.set('dimension', 10)")
    drawn(page)
    assert said(page) == before != changed
    page.evaluate("model.set('eta', 0.2)")
    drawn(page)
    assert "step size 0.2" in page.locator(".handle").get_attribute("aria-valuetext")
    assert said(page) != before
    page.evaluate("window.end()")
    assert page.evaluate("Object.values(model.heard).flat().length") == 0
    page.close()


def test_the_widget_has_the_setting_as_its_traits(monkeypatch):
    stand_in = types.ModuleType("anywidget")
    stand_in.AnyWidget = traitlets.HasTraits
    monkeypatch.setitem(sys.modules, "anywidget", stand_in)
    playground.widget_class.cache_clear()
    widget = playground.widget(eta=0.2, law="uniform")
    assert {name: getattr(widget, name) for name in asdict(Setting())} == asdict(Setting(eta=0.2, law="uniform"))
    assert all(trait.metadata["sync"] for trait in widget.traits().values())
    assert "export default { render }" in widget._esm
    playground.widget_class.cache_clear()


def test_without_anywidget_the_error_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    playground.widget_class.cache_clear()
    with pytest.raises(ImportError, match="pip install anywidget.*figure"):
        playground.widget()


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"landscape": "hill"}, "Unknown landscape 'hill'. Choose one of: valley, quadratic"),
        ({"law": "cauchy"}, "Unknown noise law"),
        ({"cancel": 2}, "between 0 .PGD. and 1"),
        ({"sigma": -1}, "finite number >= 0"),
        ({"eta": 0}, "between 0 and 1"),
        ({"dimension": 0}, "an integer of at least 1"),
        ({"steps": 1.5}, "an integer of at least 1"),
        ({"seed": -1}, "an integer of at least 0"),
    ],
)
def test_a_wrong_setting_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        playground.figure(**wrong)
