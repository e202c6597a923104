"""The page in a real browser: no errors, no requests, a click shows layers, two are compared, a phone is enough."""

import re
import shutil
import threading

import pytest

from nas_engine.ledger.ledger import Ledger, Record
from nas_engine.page.page import write_page
from nas_engine.page.server import PageServer
from tests.ordered import EVALUATORS, Configured, Quality
from tests.runs import HURTFUL, THREE, layered_space, searched, told, with_records

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install nas-engine[browser]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, such as Debian's package chromium"),
]


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    result = searched(folder, evaluators=THREE)
    told(folder)
    return folder, result, write_page(folder).as_uri()


class Opened:
    """A page, and all that went wrong in it."""

    def __init__(self, browser, address: str, width: int = 1400, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.wrong, self.requests = [], []
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type != "log" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.page.close()

    def place_of(self, evaluation: int) -> tuple[float, float]:
        """Where its point is on the screen."""
        return self.page.evaluate(
            """(n) => {
                const figure = document.getElementById("front-figure"), box = figure.getBoundingClientRect();
                const row = rowOf(n), { xaxis, yaxis } = figure._fullLayout;
                return [box.x + xaxis._offset + xaxis.l2p(row.values[state.x]),
                        box.y + yaxis._offset + yaxis.l2p(row.values[state.y])];
            }""",
            evaluation,
        )

    def click(self, evaluation: int, shift: bool = False) -> None:
        self.page.locator("#front-figure").scroll_into_view_if_needed()
        x, y = self.place_of(evaluation)
        self.page.mouse.move(x, y)
        self.page.wait_for_selector("#front-figure .hoverlayer .hovertext")
        if shift:
            self.page.keyboard.down("Shift")
        self.page.mouse.click(x, y)
        if shift:
            self.page.keyboard.up("Shift")

    def table(self, place: str) -> list[list[str]]:
        return self.page.evaluate(
            """(place) => [...document.querySelectorAll(`${place} tr`)]
                .map(row => [...row.cells].map(cell => cell.textContent))""",
            place,
        )


@pytest.fixture(scope="module")
def page(chromium, run):
    """The run's page, opened once."""
    with Opened(chromium, run[2]) as opened:
        yield opened


@pytest.fixture
def opened(page):
    """The run's page as it is when it is opened."""
    page.page.evaluate(
        """() => {
            history.replaceState(null, "", location.pathname);
            document.querySelector("input[value=a]").checked = true;
            Object.assign(state, { slot: "a" });
            delete document.documentElement.dataset.theme;
            begin();
            drawAll();
        }"""
    )
    page.page.mouse.move(0, 0)
    return page


def alone(result) -> list[int]:
    """Evaluations on the front whose points lie under no other one."""
    return [n for n, row in result.front.iterrows() if (result.frame["latency"] == row["latency"]).sum() == 1]


@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1400, "light")])
def test_page_opens_without_an_error_a_request_or_a_scroll_to_the_side(chromium, run, width: int, scheme: str) -> None:
    with Opened(chromium, run[2], width, scheme) as opened:
        opened.page.wait_for_selector("#front-figure .scatterlayer .trace")
        opened.page.wait_for_selector("#layers-figure .barlayer .trace")
        assert [url for url in opened.requests if not url.startswith(("data:", "blob:"))] == [run[2]]
        for now in (scheme, "light" if scheme == "dark" else "dark"):
            opened.page.emulate_media(color_scheme=now)
            dark = opened.page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
            assert dark == (now == "dark")
            assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.wrong == []


def test_click_on_a_point_shows_its_layers(opened, run) -> None:
    result = run[1]
    space = layered_space()
    for evaluation in alone(result)[:2]:
        opened.click(evaluation)
        assert opened.page.locator("#card h3").text_content().startswith(f"A · evaluation {evaluation} ")
        configuration = space.configuration(result.records[evaluation - 1].genome)
        head, *layers = opened.table("#layers-table")
        assert head == ["layer", "MLP width (channels)", "attention heads"]
        for i, (_, width, heads) in enumerate(layers):
            kept = configuration[f"layers.{i}.mlp.keep"], configuration[f"layers.{i}.attention.keep"]
            assert width == (str(configuration[f"layers.{i}.mlp.width"]) if kept[0] else "left out")
            assert heads == (str(configuration[f"layers.{i}.attention.heads"]) if kept[1] else "left out")
        bars = opened.page.evaluate("document.getElementById('layers-figure').data.filter(t => t.type === 'bar')")
        shown = [0 if layer[1] == "left out" else int(layer[1]) for layer in layers]
        assert bars[0]["y"] == shown
    assert opened.wrong == []


def test_pointing_at_a_sub_network_says_its_configuration(opened, run) -> None:
    result = run[1]
    evaluation = alone(result)[0]
    opened.page.locator("#front-figure").scroll_into_view_if_needed()
    opened.page.mouse.move(*opened.place_of(evaluation))
    said = opened.page.locator("#front-figure .hoverlayer").text_content()
    assert f"evaluation {evaluation}" in said
    assert "MLP width" in said
    assert "± 0.010" in said


@pytest.mark.parametrize("how", ["shift", "switch", "list", "keyboard"])
def test_two_are_compared(opened, run, how: str) -> None:
    result = run[1]
    a, b = alone(result)[:2]
    opened.click(a)
    if how == "shift":
        opened.click(b, shift=True)
    elif how == "switch":
        opened.page.locator(".switch span", has_text="B").click()
        opened.click(b)
    elif how == "list":
        opened.page.select_option("#b", str(b))
    else:
        opened.page.get_by_role("button", name=f"Show evaluation {b} as B", exact=True).press("Enter")
        assert opened.page.evaluate("document.activeElement.ariaLabel") == f"Show evaluation {b} as B"
    head, _, accuracy, _, latency, *_ = opened.table("#card")
    assert head == ["A", "B", "B − A"]
    by = result.frame.loc[b, "accuracy"] - result.frame.loc[a, "accuracy"]
    assert accuracy[2] == f"{'+' if by > 0 else '−'}{abs(by):.3f} ± 0.014"
    assert latency[2].endswith("%")
    slots = opened.page.evaluate("document.getElementById('layers-figure').data.map(t => t.meta.role)")
    assert {"a", "b"} == set(slots)
    assert len(opened.table("#layers-table")[0]) == 5
    assert opened.wrong == []


def test_any_two_objectives_are_drawn_and_the_address_remembers_them(opened, chromium) -> None:
    opened.page.select_option("#x", label="parameters")
    opened.page.select_option("#y", label="latency")
    titles = "document.getElementById('front-figure').layout"
    assert opened.page.evaluate(f"{titles}.xaxis.title.text") == "parameters (lower is better)"
    assert opened.page.evaluate(f"{titles}.yaxis.title.text") == "latency (ms, lower is better)"
    opened.page.select_option("#x", label="latency")  # they change places
    assert opened.page.evaluate(f"{titles}.yaxis.title.text") == "parameters (lower is better)"
    with Opened(chromium, opened.page.url) as again:
        assert again.page.evaluate(f"{titles}.yaxis.title.text") == "parameters (lower is better)"


BUTTONS = "[...document.querySelectorAll('.modebar-btn')].map(button => button.dataset.title)"
SENDING = re.compile(r"cloud|share|link|send|edit", re.IGNORECASE)


def test_no_button_of_a_figure_sends_it_elsewhere(opened) -> None:
    offered = opened.page.evaluate(BUTTONS)
    assert any("PNG" in title for title in offered)
    assert not [title for title in offered if SENDING.search(title)]


def test_no_button_of_a_notebooks_figure_sends_it_elsewhere(chromium, run, tmp_path) -> None:
    run[1].show().write_html(tmp_path / "figure.html")
    with Opened(chromium, (tmp_path / "figure.html").as_uri()) as opened:
        opened.page.wait_for_selector(".modebar-btn", state="attached")
        offered = opened.page.evaluate(BUTTONS)
        assert any("PNG" in title for title in offered)
        assert not [title for title in offered if SENDING.search(title)]


def test_a_theme_is_chosen_by_hand(opened) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    before = opened.page.evaluate(background)
    opened.page.locator("#theme").click()
    assert opened.page.evaluate(background) != before
    opened.page.locator("#theme").click()
    assert opened.page.evaluate(background) == before


def test_everything_to_be_used_has_a_name_and_is_reached_by_the_keyboard(opened) -> None:
    nameless = opened.page.evaluate(
        """[...document.querySelectorAll("select, button, input, [role=img], [role=region]")]
           .filter(e => !e.hidden && e.closest("[hidden]") === null && !e.closest(".figure:not([role=img])"))
           .filter(e => !(e.ariaLabel || e.labels?.length || e.textContent.trim()))
           .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    opened.page.locator(".skip").focus()
    reached = set()
    for _ in range(40):
        opened.page.keyboard.press("Tab")
        reached.add(opened.page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert {"theme", "x", "y", "a", "b", "slot"} <= reached


def test_text_of_a_run_runs_nowhere(chromium, tmp_path) -> None:
    with_records(tmp_path, 4, failed=1, evaluators=[Quality(name=HURTFUL), Quality()])
    told(tmp_path, model=HURTFUL, task=f"'\"></textarea>{HURTFUL}<img src=x onerror='window.hurt=1'>")
    with Opened(chromium, write_page(tmp_path).as_uri()) as opened:
        opened.page.wait_for_selector("#front-figure .scatterlayer .trace")
        opened.page.mouse.move(*opened.place_of(1))
        opened.page.wait_for_selector("#front-figure .hoverlayer .hovertext")
        assert opened.page.evaluate("window.hurt") is None
        assert HURTFUL in opened.page.locator("#head").text_content()
        assert HURTFUL in opened.page.locator("#card").text_content()
        assert opened.wrong == []


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (told, "no sub-network has been measured yet"),
        (lambda folder: with_records(folder, 1), "One sub-network was measured"),
        (lambda folder: with_records(folder, 0, failed=2), "no sub-network has been measured yet"),
        (lambda folder: searched(folder, evaluators=[Quality()]), "one objective, so there is no front"),
        (lambda folder: searched(folder, evaluators=THREE), "the front of these two objectives"),
    ],
    ids=["none", "one", "failed", "one objective", "three objectives"],
)
def test_little_in_a_run_is_drawn_without_an_error(chromium, tmp_path, prepare, said: str) -> None:
    prepare(tmp_path)
    with Opened(chromium, write_page(tmp_path).as_uri(), 375) as opened:
        assert said in opened.page.locator("#front-hint").text_content()
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 375
        assert opened.wrong == []


def test_a_page_that_is_served_follows_the_run_and_says_when_the_server_ends(chromium, tmp_path) -> None:
    space = with_records(tmp_path, 3)
    with PageServer(tmp_path, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        with Opened(chromium, server.address) as opened:
            opened.page.wait_for_selector("text=3 evaluations so far")
            genome = space.smallest
            subnet = Configured(space.configuration(genome))
            measurements = tuple(evaluator(subnet) for evaluator in EVALUATORS)
            Ledger(tmp_path, space, "m", EVALUATORS).append(Record(tuple(genome.tolist()), measurements))
            opened.page.wait_for_selector("text=4 evaluations so far")
            assert opened.page.evaluate("run.searches[0].rows.length") == 4
            assert opened.page.evaluate("document.getElementById('front-figure').data.length") > 2
            assert opened.wrong == []
            assert {url.split("/")[2] for url in opened.requests if url.startswith("http")} == {
                server.address.split("/")[2]
            }
            server.shutdown()
            thread.join()
            server.server_close()
            opened.page.wait_for_selector("text=The server has ended")
