"""The review in a real browser, and what its server refuses."""

from __future__ import annotations

import http.client
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from review_bench import Bench, environment

from medml.geometry import to_source
from medml.io.scans import read_mask, read_scan
from medml.records.experiment import DatasetChoice
from medml.store.reviews import Reviews
from pipelines.dataset import freeze
from pipelines.review import ReviewDesk
from pipelines.review_server import ReviewServer
from pipelines.review_views import ReviewViews
from pipelines.stores import open_catalogue

READY = "() => document.body.dataset.state === 'ready'"
MOST = 1 << 20
REVIEWED = {"collection": "reviewed", "modality": "CT"}


@pytest.fixture(scope="module")
def bench(benches: dict[str, Bench]) -> Iterator[Bench]:
    with environment(benches["batch-2"].home):
        yield benches["batch-2"]


@pytest.fixture
def server(bench: Bench) -> Iterator[ReviewServer]:
    with ReviewServer(ReviewViews(ReviewDesk(bench.home), "Ada Reader", bench.batch), most=MOST) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


class Client:
    """Speaks to the server as somebody who has no browser."""

    def __init__(self, server: ReviewServer) -> None:
        self.server = server
        self.good = {
            "Host": server.own_hosts[0],
            "Cookie": f"{server.cookie}={server.session}",
            "X-Medml-Token": server.token,
            "Content-Type": "application/json",
        }

    def ask(self, method: str, path: str, body: bytes = b"", **changes: str | None) -> tuple[int, str, dict[str, str]]:
        """Send a request with good headers, but for these changes; None leaves one out."""
        headers = {**self.good, "Content-Length": str(len(body))}
        for name, value in changes.items():
            headers.pop(name.replace("_", "-"), None)
            if value is not None:
                headers[name.replace("_", "-")] = value
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=60)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        found = answer.status, answer.read().decode("utf-8", "replace"), dict(answer.getheaders())
        connection.close()
        return found


@pytest.fixture
def client(server: ReviewServer) -> Client:
    return Client(server)


def test_foreign_requests_are_refused_and_change_nothing(bench: Bench, client: Client, tmp_path: Path) -> None:
    scan = bench.scans["ct1"]
    accept, words = f"/case/{bench.batch}/{scan}/accept", json.dumps({"seen": 0}).encode()
    for method, path, status, changes in (
        ("GET", "/", 421, {"Host": "evil.example"}),
        ("GET", "/", 421, {"Host": "127.0.0.1:1"}),
        ("GET", "/", 403, {"Cookie": None}),
        ("GET", "/", 403, {"Cookie": f"{client.server.cookie}=guessed"}),
        ("GET", "/?token=guessed", 403, {"Cookie": None}),
        ("POST", accept, 403, {"X_Medml_Token": None}),
        ("POST", accept, 403, {"X_Medml_Token": "guessed"}),
        ("POST", accept, 403, {"Cookie": None}),
        ("POST", accept, 403, {"Origin": "http://evil.example"}),
        ("POST", accept, 421, {"Host": "rebound.example"}),
        ("POST", accept, 411, {"Content_Length": None}),
        ("POST", accept, 413, {"Content_Length": str(10**9)}),
        ("POST", accept, 411, {"Content_Length": "-1"}),
        ("POST", f"/case/{bench.batch}/{scan}/delete", 404, {}),
        ("POST", "/case/..%2f..%2fsecrets/x/accept", 404, {}),
        ("POST", f"/case/{bench.batch}/unknown/accept", 404, {}),
        ("GET", "/case/../../etc/passwd", 404, {}),
        ("GET", f"/preview/{bench.batch}/..%2f..%2fx.png", 404, {}),
        ("GET", f"/preview/../{scan}.png", 404, {}),
    ):
        found, text, _ = client.ask(method, path, words if method == "POST" else b"", **changes)
        assert (path, changes, found) == (path, changes, status), text
    big = {"Content_Type": "application/octet-stream", "X_Medml_Seen": "0", "Content_Length": str(MOST + 1)}
    status, text, _ = client.ask("POST", f"/case/{bench.batch}/{scan}/replace", b"", **big)
    assert (status, f"{MOST + 1} bytes were sent, at most {MOST}" in text) == (413, True)
    status, text, _ = client.ask("POST", accept, b"no json")
    assert (status, "cannot be read" in text) == (400, True)
    binary = {"Content_Type": "application/octet-stream", "X_Medml_Seen": "0"}
    status, text, _ = client.ask("POST", f"/case/{bench.batch}/{scan}/replace", b"no mask", **binary)
    assert (status, "neither a NIfTI" in text) == (409, True)
    assert Reviews(open_catalogue(bench.home)).of(bench.batch, scan) == []
    assert list((bench.home.secrets / "uploads").iterdir()) == []


def test_the_link_works_once_and_pages_are_kept_by_nobody(client: Client) -> None:
    path = client.server.link.partition(client.server.own_hosts[0])[2]
    status, _, headers = client.ask("GET", path, Cookie=None)
    assert status == 303
    assert "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]
    assert client.ask("GET", path, Cookie=None)[0] == 403
    status, html, headers = client.ask("GET", "/")
    assert (status, headers["Cache-Control"], headers["X-Frame-Options"]) == (200, "no-store", "DENY")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "Unlike the training data: 7.0." in html


def test_two_persons_at_one_case_do_not_overwrite_each_other(bench: Bench, client: Client) -> None:
    path = f"/case/{bench.batch}/{bench.scans['n2']}/reject"
    first = client.ask("POST", path, json.dumps({"seen": 0, "reason": "noise"}).encode())
    second = client.ask("POST", path, json.dumps({"seen": 0, "reason": "fine"}).encode())
    assert (first[0], second[0]) == (200, 409)
    assert "somebody else decided" in second[1]


@pytest.mark.system
def test_a_person_rejects_the_worst_and_replaces_another(
    bench: Bench, server: ReviewServer, browser: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(120_000)  # a busy machine
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(server.link)
    items = page.locator("a.item")
    waiting = items.count()
    worst = bench.scans["tilted"]
    assert items.first.locator("strong").inner_text() == worst[:12]
    assert "Unlike the training data: 7.0." in items.first.inner_text()
    page.wait_for_function("() => [...document.images].every(i => i.complete && i.naturalWidth > 100)")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_function(READY)
    page.wait_for_timeout(1500)
    page.locator("canvas").screenshot(path=tmp_path / "canvas.png")
    pixels = np.asarray(Image.open(tmp_path / "canvas.png").convert("RGB")).astype(int)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    assert ((abs(red - green) < 6) & (abs(green - blue) < 6) & (red > 60)).sum() > 500  # the image, in grey
    coloured = ((abs(red - blue) > 40) & (red + green + blue > 100)).sum()
    assert coloured > 500  # the mask
    boxes = page.locator("#legend input")
    for number in range(boxes.count()):
        boxes.nth(number).uncheck()
    page.wait_for_timeout(500)
    page.locator("canvas").screenshot(path=tmp_path / "bare.png")
    pixels = np.asarray(Image.open(tmp_path / "bare.png").convert("RGB")).astype(int)
    assert (boxes.count() < 2) or ((abs(pixels[..., 0] - pixels[..., 2]) > 40).sum() < coloured / 4)

    page.keyboard.press("r")
    page.keyboard.press("Enter")
    assert "Say why" in page.locator("#said").inner_text()
    page.keyboard.type("leaks into <b>the spleen</b>")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: worst not in url)
    page.wait_for_function(READY)
    assert "rejected" in page.locator("#said").inner_text()
    decided = Reviews(open_catalogue(bench.home)).of(bench.batch, worst)
    assert [(d.verdict, d.reason, d.person) for d in decided] == [
        ("rejected", "leaks into <b>the spleen</b>", "Ada Reader")
    ]

    wanted = bench.save_mask("ct2", tmp_path / "corrected.nii.gz")
    page.goto(f"http://{server.own_hosts[0]}/case/{bench.batch}/{bench.scans['ct2']}")
    page.wait_for_function(READY)
    page.locator("#mask").set_input_files(tmp_path / "corrected.nii.gz")
    page.get_by_role("button", name="Replace").click()
    page.wait_for_url(lambda url: bench.scans["ct2"] not in url)
    page.wait_for_function(READY)
    assert "replaced" in page.locator("#said").inner_text()
    here = page.url
    page.keyboard.press("a")
    page.wait_for_url(lambda url: url != here)
    page.wait_for_load_state()
    page.goto(f"http://{server.own_hosts[0]}/case/{bench.batch}/{worst}")
    assert page.locator("td", has_text="leaks into <b>the spleen</b>").count() == 1
    page.goto(f"http://{server.own_hosts[0]}/")
    assert page.locator("a.item").count() == waiting - 3
    context.close()

    desk = ReviewDesk(bench.home)  # two more patients, so that the dataset can be split
    for name in ("ct1", "ct3"):
        bench.save_mask(name, tmp_path / f"{name}.nii.gz")
        desk.decide(desk.named(bench.scans[name]), "replaced", person="Ada", mask=tmp_path / f"{name}.nii.gz")
    choice = DatasetChoice(
        name="served", select={"collection": "reviewed", "modality": "CT"}, test_fraction=0.3, folds=2
    )
    dataset, _ = freeze(choice.model_dump(mode="json"), "segment")
    case = next(case for case in dataset.cases if case.case_id == bench.scans["ct2"])
    assert case.origin == "review-organs"
    stored = read_mask(bench.home.scans, case.case_id, str(case.mask)).voxels[0]
    assert np.array_equal(to_source(stored, read_scan(bench.home.scans, case.case_id).source_grid), wanted)
    assert worst not in {case.case_id for case in dataset.cases}
    own = f"http://{server.own_hosts[0]}/"
    assert [url for url in asked if not url.startswith((own, "data:", "blob:"))] == []
    assert said == []
    assert not any(scan in caplog.text for scan in bench.scans.values())
