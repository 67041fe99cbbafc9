"""The page in a real browser: headless Chromium, driven by playwright, in one session for all tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replk_probe.collection import Collection
from replk_probe.html_report.erf_section import threshold_key
from replk_probe.html_report.number_texts import interval_text, percent_text, side_text

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser and is not installed")
axe_package = pytest.importorskip("axe_playwright_python", reason="axe-core (axe-playwright-python) is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian package chromium)")

AXE = Path(str(axe_package.__file__)).parent / "axe.min.js"


@pytest.fixture(scope="module")
def address(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # The sandbox of Chromium does not work for root, as in most containers.
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def opened(browser: Any, address: str) -> Any:
    """The page at the width of a desktop, with lists of its messages and requests."""
    tab = browser.new_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    tab.messages, tab.requests = [], []
    tab.on("console", lambda message: tab.messages.append(message.text))
    tab.on("pageerror", lambda error: tab.messages.append(str(error)))
    tab.on("dialog", lambda dialog: (tab.messages.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: tab.requests.append(request.url))
    tab.goto(address)
    return tab


def test_the_page_requests_nothing_and_has_no_errors(opened: Any, address: str) -> None:
    opened.wait_for_load_state("networkidle")
    assert opened.messages == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [address]


def test_the_slider_and_the_switches_show_the_values_of_the_records(opened: Any, collection: Collection) -> None:
    cards = opened.locator("[data-card]")
    assert cards.count() == len(collection.erf)
    thresholds = collection.erf[0].result.thresholds
    for protocol in ("paper", "linear", "centred", "pixels"):
        opened.locator(f"input[name=protocol][value={protocol}]").check()
        for place, threshold in enumerate(sorted(thresholds)):
            opened.locator("#threshold").fill(str(place))
            assert opened.locator("#threshold").get_attribute("aria-valuetext") == f"{100 * threshold:g} %"
            shown = opened.evaluate(
                """() => [...document.querySelectorAll('[data-card]')].map(card => ({
                    ratio: card.querySelector('[data-field=ratio]').textContent,
                    interval: card.querySelector('[data-field=interval]').textContent,
                    side: card.querySelector('[data-field=side]').textContent,
                    frame: (r => r.hasAttribute('hidden') ? null : ['width', 'height'].map(n => +r.getAttribute(n)))(
                        card.querySelector('rect.window')),
                    outside: card.querySelector('image.outside').hasAttribute('hidden') ? null : true,
                }))"""
            )
            for one, saved in zip(shown, collection.erf, strict=True):
                row = saved.result.row(protocol, threshold)
                assert one["ratio"] == f"{percent_text(row.ratio)} %"
                assert one["interval"] == f"95 %: {interval_text(row.ci95)}"
                assert one["side"] == f"side {side_text(row.side)} px"
                assert (one["frame"] is None, one["outside"]) == (
                    (True, True) if protocol == "pixels" else (False, None)
                )
                if one["frame"] is not None:
                    assert max(one["frame"]) == row.side
                    assert one["frame"][0] * one["frame"][1] / 48**2 == pytest.approx(row.ratio, abs=1e-12)
            visible = opened.locator("[data-protocol]:not([hidden])")
            assert visible.count() == 1
            assert visible.get_attribute("data-threshold") == threshold_key(threshold)
            assert visible.get_attribute("data-protocol") == protocol


def test_the_slider_moves_by_keyboard(opened: Any) -> None:
    opened.locator("#threshold").fill("0")
    opened.locator("#threshold").focus()
    opened.keyboard.press("ArrowRight")
    assert opened.locator("#threshold-text").inner_text() == "30 %"


def test_the_color_scale_is_switched(opened: Any) -> None:
    card = opened.locator("[data-card]").first
    for scale, other in (("linear", "log"), ("log", "linear")):
        opened.locator(f"input[name=scale][value={scale}]").check()
        assert card.locator(f"image.{scale}").is_visible() and not card.locator(f"image.{other}").is_visible()


def test_tables_are_sorted(opened: Any) -> None:
    head = opened.locator("table.summary thead th").nth(1)
    values = "() => [...document.querySelectorAll('table.summary tbody td:nth-child(2)')].map(td => +td.dataset.value)"
    for direction in ("descending", "ascending"):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == direction
        assert opened.evaluate(values) == sorted(opened.evaluate(values), reverse=direction == "descending")
    bias = opened.locator("table.summary thead th", has_text="shape bias")
    bias.get_by_role("button").click()
    assert opened.locator("th[aria-sort]").count() == 1
    last = opened.locator("table.summary tbody tr").last
    assert last.locator("td", has_text="\u2013").count() >= 2  # a row without the value


def test_layers_are_picked(opened: Any) -> None:
    opened.locator("#layer-0").select_option("0")
    assert opened.locator("[data-layer='0-0']").is_visible() and not opened.locator("[data-layer='0-1']").is_visible()
    assert opened.locator("[data-layer='0-0'] svg").count() == 3  # before and after merging


def test_values_appear_under_the_pointer(opened: Any) -> None:
    mark = opened.locator("#shape-bias .mark .target").first
    mark.scroll_into_view_if_needed()
    mark.hover()
    assert "airplane" in opened.locator("#tip").inner_text()


def test_values_of_curves_appear_by_keyboard(opened: Any, collection: Collection) -> None:
    opened.locator("input[name=protocol][value=centred]").check()
    opened.locator("#threshold").fill("2")
    # Each chart is one stop of the Tab key.
    stops = "chart => chart.querySelectorAll('[tabindex=\"0\"]').length"
    assert {chart.evaluate(stops) for chart in opened.locator(".chart").all()} == {1}
    result = collection.erf[0].result
    assert result.convergence is not None and result.numbers is not None
    curve = next(one for one in result.convergence.ratios if (one.protocol, one.threshold) == ("centred", 0.5))
    tip = opened.locator("#tip")
    opened.locator("[data-protocol]:not([hidden]) .chart [tabindex='0']").focus()
    for place, (count, value) in enumerate(zip(result.convergence.n_images, curve.values, strict=True)):
        text = tip.inner_text()
        assert text.startswith(f"wide_net.a1: {percent_text(value)} % with {count} image"), place
        assert opened.evaluate("document.activeElement.getAttribute('aria-label')") == text
        opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowDown")
    assert tip.inner_text().startswith(f"{collection.erf[1].result.run.model}: ")
    opened.keyboard.press("Escape")
    assert not tip.is_visible()
    radial = opened.locator(".chart:not(.rows) [tabindex='0']").first
    radial.focus()
    opened.keyboard.press("End")
    text = tip.inner_text()
    radius = float(text.partition("within ")[2].partition(" px")[0])
    shares = dict(result.numbers.radial_share)
    assert text.startswith(f"wide_net.a1: {percent_text(shares[radius])} % within")
    # The pointer shows the same.
    radial = opened.locator("#erf .faint .mark .target").nth(3)
    radial.hover()
    assert " px (" in tip.inner_text()


def test_the_accessibility_tree(opened: Any, collection: Collection) -> None:
    session = opened.context.new_cdp_session(opened)
    opened.evaluate("() => { for (const one of document.querySelectorAll('details')) one.open = true; }")
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    found: dict[str, list[str]] = {}
    for node in nodes:
        if not node.get("ignored"):
            found.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert (len(found["banner"]), found["navigation"], len(found["main"]), len(found["contentinfo"])) == (
        1, ["Sections"], 1, 1,
    )  # fmt: skip
    sections = ["Summary", "Effective receptive fields", "Shape bias", "Kernels", "Attributions"]
    sections += ["Reliance on shape, texture and color", "Provenance"]
    assert {*sections} <= {*found["region"]} and len(found["region"]) == len({*found["region"]})
    for role in ("button", "radio", "slider", "combobox", "link", "table", "columnheader", "rowheader", "image"):
        assert all(found[role]), role
    assert found["slider"][0].startswith("Threshold: ")
    assert {"centred", "pixels", "paper", "linear", "logarithmic", "Auto", "Light", "Dark"} <= {*found["radio"]}
    groups = {"Protocol", "Color scale", "Theme", "Shape bias by category of the shape"}
    assert groups <= {*found["group"]} and any(name.startswith("Share of the total") for name in found["group"])
    # The ratios are announced when the slider moves.
    opened.locator("#threshold").fill("1")
    tree = opened.locator("#erf-status").aria_snapshot()
    assert "status" in tree and "centred, 30 %" in tree
    for saved in collection.erf:
        assert f"{percent_text(saved.result.row('centred', 0.3).ratio)} %" in tree


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 375)])
def test_axe_finds_nothing_in_either_theme(opened: Any, theme: str, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 900})
    opened.locator(f"input[name=theme][value={theme}]").check()
    opened.evaluate("() => { for (const one of document.querySelectorAll('details')) one.open = true; }")
    opened.evaluate(AXE.read_text(encoding="utf-8"))
    found = opened.evaluate(
        """async () => {
            const found = await axe.run(document, {resultTypes: ['violations']});
            const places = (one) => one.nodes.map((node) => node.html.slice(0, 150));
            return [found.violations.map((one) => [one.id, places(one)]), found.passes.map((one) => one.id)];
        }"""
    )
    assert found[0] == []
    assert {"color-contrast", "label", "svg-img-alt"} <= {*found[1]}
    assert ("scrollable-region-focusable" in found[1]) == (width == 375)  # tables are wider than a phone


def test_nothing_is_wider_than_a_phone(browser: Any, address: str) -> None:
    with browser.new_context(viewport={"width": 375, "height": 800}) as context:
        tab = context.new_page()
        tab.goto(address)
        tab.evaluate("() => { for (const one of document.querySelectorAll('details')) one.open = true; }")
        assert tab.evaluate("document.documentElement.scrollWidth") == 375


def test_the_page_works_without_scripts(browser: Any, address: str) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        tab = context.new_page()
        tab.goto(address)
        assert not tab.locator("#threshold").is_visible()
        assert tab.locator("image.log").first.is_visible()
        assert (
            tab.locator("[data-layer='0-0'] svg").first.is_visible() and tab.locator("[data-layer='0-1']").is_visible()
        )
        table = tab.locator("summary", has_text="Table of all area ratios")
        table.click()
        assert tab.locator("text=Area of the window as a share").is_visible()
