"""The gallery in a browser, with as many clips as CC2017 has: what is loaded, sorted, filtered, played and compared, by mouse, keys and touch."""

import os

import numpy as np
import pytest
from browser import BINARY, Browser

from common.files import write_json
from Evaluation_Metrics import gallery
from Evaluation_Metrics.movie_strip import write_strip
from Evaluation_Metrics.results import write_csv

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine; .ci/run installs Debian's")

N, FRAMES, SIZE = 1200, 8, 16
OTHER = "mine & <yours>"  # the name of a reconstruction, of which addresses and pages must make text
NUMBERS = np.arange(1, N + 1)
SSIM = NUMBERS * 7 % N / N  # every value once; the best is clip 857 (7 * 857 = 5999), the worst clip 1200
COLOURS = ("red", "green", "blue", "white")


def caption(number):
    return (
        "</script><script>document.title = 'run'</script>"
        if number == 3
        else f"a {COLOURS[number % 4]} ball {'rolls' if number % 3 else 'lies'}"
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The gallery of `full`, with another reconstruction of every second clip beside it; four movie strips stand for all."""
    root = tmp_path_factory.mktemp("gallery")
    rng = np.random.default_rng(0)
    for name, step in (("full", 1), (OTHER, 2)):
        folder, clips = root / "recons/sub1" / name, NUMBERS[::step]
        for of, rows in (("strips", 2), ("strips_stage1", 1)):
            for i in range(4):
                write_strip(folder / of / f"base{i}.png", *rng.integers(0, 256, (rows, FRAMES, SIZE, SIZE, 3), dtype=np.uint8))
            for number in clips:
                os.link(folder / of / f"base{number % 4}.png", folder / of / f"test{number}.png")
        entries = {
            int(number): {"stem": f"test{number}", "size": SIZE, "caption": caption(number), "rank": 2, "n_captions": 9} for number in clips
        }
        for entry in entries.values():
            entry["nearest_captions"] = {"a red ball lies": 0.75, entry["caption"] + ".": 0.5}
        facts = {"dataset": "phantom", "phantom": True, "subject": 1, "name": name, "arm": "full", "split": "test", "settings": {}}
        folders = {"recons": "results_recons", "strips": "strips", "with_gt": "results_recons_with_gt"}
        write_json(folder / "manifest.json", facts | {"folders": folders, "clips": entries})
        own = SSIM[::step] if name == "full" else 1 - SSIM[::step]
        write_csv(
            root / "metrics/sub1" / name / "per_clip.csv", clips, {"SSIM": np.where(clips == 11, np.nan, own), "EPE": own + clips * 2}
        )
    (root / "recons/sub1/full/strips/test1200.png").unlink()  # before the page is made
    path = gallery.build_gallery(root / "recons/sub1/full", root / "metrics/sub1/full")
    (root / "recons/sub1/full/strips/test857.png").unlink()  # after it
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    with Browser(folder / "profile", folder) as browser:
        yield browser


def choose(browser, **fields):
    """Fill fields of the bar as a user does."""
    for name, value in fields.items():
        event = "change" if name in ("show", "beside", "by", "order") else "input"
        browser.value(f"(f => {{ f.value = {value!r}; f.dispatchEvent(new Event('{event}')); }})(document.getElementById('{name}')), 1")
    wanted = " && ".join(f"state.{name} === {value!r}" for name, value in fields.items())
    browser.wait(f"state && {wanted}")


def order(browser, n=None):
    """Numbers of the clips, as listed."""
    return browser.value("[...document.querySelectorAll('#grid > a')].map(card => Number(card.id.slice(4)))")[:n]


ALIVE = "document.images.length"
OFF = "document.documentElement.scrollWidth - innerWidth"  # pixels to scroll sideways


def test_only_what_is_in_sight_is_loaded(browser, page):
    browser.open(page)
    browser.wait("document.querySelector('.film img')?.naturalWidth > 0")
    assert browser.value(ALIVE) <= 160  # before anything is scrolled
    numbers = order(browser)
    assert len(numbers) == N and numbers[:5] == [857, 600, 1200, 1, 2]  # best, median, worst, then all others
    assert browser.value("document.title") == "full" and browser.value("document.querySelectorAll('script[src]').length") == 0
    assert "Phantom." in browser.value("document.body.innerText")
    height, most = browser.value("document.body.scrollHeight"), 0
    for part in (0.2, 0.5, 0.8, 1):
        browser.value(f"scrollTo(0, {part} * document.body.scrollHeight)")
        browser.wait("[...document.querySelectorAll('#grid > a')].some(card => card.firstChild && card.getBoundingClientRect().top > 0"
                     " && card.getBoundingClientRect().bottom < innerHeight && card.querySelector('img').naturalWidth)")  # fmt: skip
        most = max(most, browser.value(ALIVE))
    assert 0 < most <= 160 and abs(browser.value("document.body.scrollHeight") - height) < 2
    assert browser.value("performance.getEntriesByType('resource').every(entry => entry.name.startsWith('file:'))")


def test_missing_pictures_are_said_to_be_missing(browser, page):
    browser.open(page)
    browser.wait("document.querySelectorAll('#clip857 .film.missing').length === 2")
    assert browser.value("document.querySelector('#clip857 .film').textContent") == "not found: strips/test857.png"
    assert browser.value("document.querySelector('#clip1200 .film').textContent") == "no picture"
    choose(browser, beside=OTHER)
    browser.wait("document.querySelectorAll('#clip600 .film').length === 3")
    assert browser.value("document.querySelectorAll('#clip600 .film')[2].textContent") == "not reconstructed"


def test_sorted_and_filtered(browser, page):
    browser.open(page)
    value = dict(zip(NUMBERS.tolist(), SSIM.tolist(), strict=True)) | {11: np.nan}
    ranked = sorted((n for n in value if n != 11), key=lambda n: -value[n])
    choose(browser, by="SSIM")
    assert order(browser) == [*ranked, 11]
    choose(browser, order="worst")
    assert order(browser) == [*ranked[::-1], 11]  # what has no value stands last
    choose(browser, by="EPE", order="best")  # lower is better
    assert order(browser, 3) == [1, 2, 3] and "mean EPE 1201" in browser.value("count.textContent")
    choose(browser, by="SSIM", words="blue lies", to="0.5")
    wanted = [n for n in ranked if n % 4 == 2 and n % 3 == 0 and value[n] <= 0.5]
    assert order(browser) == wanted and browser.value("count.textContent").startswith(f"{len(wanted)} of 1200 clips, mean SSIM 0.2")
    assert browser.value("location.hash") == "#by=SSIM&words=blue+lies&to=0.5"
    choose(browser, words="857", to="")
    assert order(browser) == [857]
    choose(browser, words="", beside=OTHER, by="difference SSIM")
    both = [n for n in ranked if n % 2]
    assert order(browser, 600)[:599] == sorted(both, key=lambda n: -value[n])  # 2 SSIM - 1
    choose(browser, show=OTHER)
    assert browser.value("count.textContent").startswith("600 of 600 clips") and len(order(browser)) == 600


def test_films_play_together(browser, page):
    frames = "[...document.querySelectorAll('#grid .film img')].map(i => i.offsetLeft / i.parentNode.offsetWidth)"
    browser.open(page)
    choose(browser, beside=OTHER, by="number")
    browser.wait(f"{frames}.length > 9 && films.count === {FRAMES}")
    first = browser.value("films.frame")
    browser.wait(f"films.frame !== {first}")
    browser.press(" ")
    assert browser.value("play.textContent") == "▶ Play" and browser.value("films.timer") is None
    browser.value("films.show(6), 1")
    browser.press(".", ".", ".", ",")
    assert browser.value("films.frame") == 0 and browser.value("frame.value") == "0"  # from the last frame on to the first
    browser.value("frame.value = 5, frame.dispatchEvent(new Event('input')), 1")
    shifts = browser.value(frames)
    assert np.allclose(shifts, -5 * (SIZE + 1) / SIZE, atol=0.02) and len(shifts) > 9
    tops = browser.value("[...document.querySelectorAll('#clip5 .film img')].map(i => i.offsetTop / i.parentNode.offsetWidth)")
    assert np.allclose(tops, [0, -17 / 16, -17 / 16], atol=0.02)  # truth; full; the other
    browser.press(" ")
    browser.wait("films.frame !== 5")


def test_a_clip_has_its_page(browser, page):
    browser.open(page)
    choose(browser, by="SSIM")
    browser.value("document.querySelector('#grid > a:nth-child(250)').scrollIntoView()")
    browser.wait("document.querySelector('#grid > a:nth-child(250)').hasChildNodes()")
    scrolled, number = browser.value("scrollY"), order(browser)[249]
    browser.value("document.querySelector('#grid > a:nth-child(250)').click()")
    browser.wait(f"document.querySelector('#clip h2')?.textContent === 'Clip {number}: {caption(number)}'")
    assert browser.value("grid.hidden && !clip.hidden") and browser.value(ALIVE) <= 8
    films = browser.value("[...document.querySelectorAll('#clip > .films figcaption')].map(words => words.textContent)")
    assert films == ["ground truth", "stage 1", f"stage 2SSIM {SSIM[number - 1]:.3g}"]
    text = browser.value("clip.innerText")
    assert "250 of 1199" in text and "a red ball lies cosine 0.75" in text and "rank 2 of 9" in text and "SSIM of all clips" not in text
    assert browser.value("[...document.querySelectorAll('#clip svg')].length") == 2
    browser.press("ArrowRight", "ArrowRight", "ArrowLeft")
    browser.wait(f"document.querySelector('#clip h2').textContent.startsWith('Clip {order(browser)[250]}:')")
    browser.press("Escape")
    browser.wait("!grid.hidden")
    assert abs(browser.value("scrollY") - scrolled) < 600 and browser.value("document.activeElement.id") == f"clip{order(browser)[250]}"
    browser.value("history.back(), 1")
    browser.wait("!clip.hidden")
    browser.open(page.with_name("gallery.html"))
    browser.value("location.hash = 'clip=3', 1")
    browser.wait("!clip.hidden")
    assert (
        browser.value("document.querySelector('#clip h2').textContent") == f"Clip 3: {caption(3)}"
        and browser.value("document.title") == "Clip 3: full"
    )
    browser.value("document.querySelector('#clip .others a').click()")  # beside it
    browser.wait("document.querySelectorAll('#clip > .films .film').length === 5")
    assert browser.value("document.querySelectorAll('#clip > .films figcaption')[4].textContent") == f"{OTHER}SSIM {1 - SSIM[2]:.3g}"


def test_keys_lead_through_the_gallery(browser, page):
    browser.open(page)
    choose(browser, by="number")
    browser.value("scrollTo(0, 0)")
    browser.wait("document.querySelector('#clip2').hasChildNodes()")
    columns = browser.value("getComputedStyle(grid).gridTemplateColumns.split(' ').length")
    browser.press("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft")
    assert browser.value("document.activeElement.id") == f"clip{columns + 1}"
    browser.press("Enter")
    browser.wait(f"document.querySelector('#clip h2')?.textContent.startsWith('Clip {columns + 1}:')")
    browser.press("Escape", "/")
    assert browser.value("document.activeElement.id") == "words"
    browser.press(".")  # typed, not a step
    browser.wait("state.words === '.'")
    assert browser.value("films.timer !== null")


def test_on_a_telephone(browser, page):
    browser.open(page, width=400, height=800, touch=True)
    assert not browser.value("choose.open")
    browser.value("choose.open = true")
    small = "[...document.querySelectorAll('button, select, input:not([type=range]), .button')].filter(e => e.offsetParent).map(e => e.offsetHeight)"
    assert min(browser.value(small)) >= 44 and browser.value(OFF) <= 0
    choose(browser, beside=OTHER, by="number")
    browser.value("choose.open = false")
    browser.wait("document.querySelector('#clip1 img')?.naturalWidth")
    assert browser.value(OFF) <= 0
    browser.tap("clip1")
    browser.wait("document.querySelector('#clip h2')?.textContent.startsWith('Clip 1:')")
    assert browser.value(OFF) <= 0 and min(browser.value(small)) >= 44
    browser.tap("next")
    browser.wait("document.querySelector('#clip h2').textContent.startsWith('Clip 2:')")
    browser.tap("back")
    browser.wait("!grid.hidden")
