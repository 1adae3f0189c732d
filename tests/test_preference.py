"""The blind comparison: a page driven in a browser, its answers read against the key, the statistics of preference."""

import base64
import csv
import io
import re

import numpy as np
import pytest
from browser import BINARY, Browser
from PIL import Image
from scipy.stats import beta
from tiny import error_of, run_script

from common.files import read_json, write_json
from common.readers import open_clips
from Evaluation_Metrics import preference
from Evaluation_Metrics.blind_page import QUESTIONS, as_address, build_blind_page, draw_order
from Evaluation_Metrics.preference import agreement, share_preferred

N = 5


@pytest.fixture
def page(tmp_path):
    """A page of five pairs; A is red, B is blue, the truth green."""
    readers = {}
    for number, (name, colour) in enumerate({"truth": (0, 200, 0), "A": (200, 0, 0), "B": (0, 0, 200)}.items()):
        clips = np.zeros((N, 8, 24, 24, 3), np.uint8) + np.array(colour, np.uint8)
        clips[..., :2, :] += (np.arange(N)[:, None, None, None, None] * 8 + number).astype(np.uint8)
        np.save(tmp_path / f"{name}.npy", clips)
        readers[name] = open_clips(tmp_path / f"{name}.npy")
    return build_blind_page(
        tmp_path / "page", ("mine", "theirs"), np.arange(1, N + 1), readers, n_clips=9, seed=3, note="Phantom. Not a brain."
    )


def test_a_page_does_not_tell_whose_is_whose(page):
    text, key = page.read_text(), read_json(page.parent / "blind_key.json")
    assert not re.search(r"mine|theirs|npy", re.sub(r"base64,[\w+/=]+", "", text)) and "Phantom." in text
    assert sorted(item["clip"] for item in key["items"]) == [1, 2, 3, 4, 5] and abs([i["left"] for i in key["items"]].count("A") - 2.5) < 1
    assert draw_order(np.arange(9), 9, 1) == draw_order(np.arange(9), 9, 1) != draw_order(np.arange(9), 9, 2)


def test_movies_on_the_page_are_lossless():
    frames = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(as_address(frames).partition(",")[2]))) as movie:
        assert movie.n_frames == 8
        for i, frame in enumerate(frames):
            movie.seek(i)
            np.testing.assert_array_equal(np.asarray(movie.convert("RGB")), frame)


@pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine")
def test_a_rater_chooses_goes_back_and_saves(page, tmp_path, capsys):
    key, downloads = read_json(page.parent / "blind_key.json"), tmp_path / "downloads"
    downloads.mkdir()
    side_of_a = ["left" if item["left"] == "A" else "right" for item in key["items"]]
    arrow = {"left": "ArrowLeft", "right": "ArrowRight"}
    with Browser(tmp_path / "profile", downloads) as browser:
        browser.open(page)
        colour = "(() => { const c = document.createElement('canvas'); c.width = c.height = 1; const x = c.getContext('2d'); x.drawImage("
        colour += f"document.getElementById('{side_of_a[0]}'), 12, 12, 1, 1, 0, 0, 1, 1); return x.getImageData(0, 0, 1, 1).data[0]; }})()"
        browser.wait("document.getElementById('left').complete && document.getElementById('right').complete")
        assert browser.value(colour) > 150  # the key tells the truth: A is red
        browser.value("const r = document.getElementById('rater'); r.value = 'Ada L.'; r.dispatchEvent(new Event('input'))")
        other = {"left": "ArrowRight", "right": "ArrowLeft"}
        browser.press(other[side_of_a[0]], "Backspace")  # a slip, and back
        for side in side_of_a[:3]:
            browser.press(*[arrow[side]] * 3, other[side])  # A but for the last question
        assert browser.value("document.getElementById('where').textContent") == "pair 4 of 5, 3 answered"
        browser.open(page, width=400, height=800, touch=True)  # answers and place are kept, also on a telephone
        assert browser.value("document.getElementById('where').textContent") == "pair 4 of 5, 3 answered"
        assert browser.value("document.documentElement.scrollWidth") <= 400
        sizes = browser.value("[...document.querySelectorAll('button')].map(b => Math.min(b.offsetHeight, b.offsetWidth))")
        assert min(sizes) >= 44  # a finger's
        for i in (3, 4):
            for question in QUESTIONS:
                browser.wait("[...document.images].every(image => image.complete)")
                browser.tap(f"{question}-{side_of_a[i]}")
                browser.wait(f"(JSON.parse(localStorage['blind {key['page']}']).answers[{i + 1}] || {{}})['{question}']")
        assert browser.value("document.getElementById('where').textContent") == "pair 5 of 5, 5 answered"
        browser.tap("save")
        path = downloads / "answers_Ada_L_.csv"
        for _ in range(200):
            if path.exists() and path.stat().st_size:
                break
            browser.wait("new Promise(done => setTimeout(done, 50)) && true")
    run_script(preference, page.parent / "blind_key.json", path)
    with open(page.parent / "preference.csv", newline="") as handle:
        rows = {row["question"]: row for row in csv.DictReader(handle)}
    assert {question: float(row["share"]) for question, row in rows.items()} == {"content": 1, "motion": 1, "quality": 1, "overall": 0.4}
    assert "Preferred: mine over theirs" in capsys.readouterr().out and rows["overall"]["raters"] == "1"


def answers(path, key, rows, columns="page,rater,item,question,side"):
    path.write_text("\n".join([columns, *(f"{key['page']},{row}" for row in rows)]) + "\n")
    return path


def test_shares_intervals_and_agreement():
    found = share_preferred(np.array([True] * 7 + [False] * 3))
    assert (
        found["share"] == 0.7
        and found["low"] == pytest.approx(beta.ppf(0.025, 7, 4))
        and found["high"] == pytest.approx(beta.ppf(0.975, 8, 3))
    )
    assert found["p"] == pytest.approx(2 * sum(p for p in (120, 45, 10, 1)) / 1024)
    assert agreement({"a": {1: True, 2: False}, "b": {1: True, 2: True, 3: True}}) == {"agreement": 0.5, "alpha": 0.0, "pairs": 2}
    assert agreement({"a": {1: True, 2: False}, "b": {1: True, 2: False}})["alpha"] == 1
    assert agreement({"a": {1: True}})["agreement"] is None


@pytest.mark.parametrize(
    "rows, columns, words",
    [
        (["x,1,content,left"], "page,rater,item,question,colour", "has the columns page, rater, item, question, colour, not"),
        (["x,9,content,left"], None, "line 2 has item 9"),
        (["x,1,content,both"], None, "side both"),
        (["x,1,taste,left"], None, "question taste"),
        ([], None, "holds no answer"),
    ],
)
def test_answers_that_do_not_fit_are_one_sentence(rows, columns, words, page, tmp_path, capsys):
    key = read_json(page.parent / "blind_key.json")
    path = answers(tmp_path / "a.csv", key, rows, *filter(None, [columns]))
    assert words in error_of(capsys, preference, page.parent / "blind_key.json", path)
    good = answers(tmp_path / "good.csv", key, ["x,1,content,left"])
    twice = answers(tmp_path / "twice.csv", key, ["x,2,content,left"])
    assert "both of rater 'x'" in error_of(capsys, preference, page.parent / "blind_key.json", good, twice)
    write_json(tmp_path / "other.json", key | {"page": "another"})
    assert "is of page" in error_of(capsys, preference, tmp_path / "other.json", good)
    path.write_bytes(b"\xff\xfe\x00")
    assert "not a CSV file" in error_of(capsys, preference, page.parent / "blind_key.json", path)
