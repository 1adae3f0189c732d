"""Report, overview, gallery and comparison, from a made run of two reconstructed arms and their numbers; no model, no training."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from common import cli, pages
from common.datasets import CC2017, DATASETS, PHANTOM
from common.files import UserError, read_json, write_json, write_text
from common.layout import Layout
from Evaluation_Metrics import compare, gallery
from Evaluation_Metrics.movie_strip import STRIP_FRAME, write_strip, zoom
from Evaluation_Metrics.report import build_overview, build_report
from Evaluation_Metrics.results import save_per_clip
from examples.render_page import to_markdown

ROOT = Path(__file__).resolve().parents[1]
CLIPS, FRAMES, SIZE = 6, 8, 16
CAPTIONS = ["a red circle", "a <b>blue</b> star", "a red circle", "a green square", "a white star", "a pink circle"]
SSIM = {1: 0.5, 2: 0.25, 3: 0.75, 4: 0.125, 5: 0.875}  # clip 6 has none
NAMED = "video & <fMRI>"  # the name of a method, of which a page must make text
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Addresses, ids and texts of a page; elements that are left open or closed in another order fail."""

    def __init__(self, path):
        super().__init__()
        self.path, self.source = path, path.read_text(encoding="utf-8")
        self.open, self.addresses, self.ids, self.images, self.words, self.data = [], [], [], [], [], None
        self.feed(self.source)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [attributes[name] for name in ("href", "src") if name in attributes]
        assert tag != "script" or "src" not in attributes
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.images += [(attributes["src"], self.open[-1] if self.open else "")] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script" and self.ids[-1] == "data" and self.data is None:
            self.data = json.loads(data)
        if self.open and self.open[-1] not in ("style", "script") and data.strip():
            self.words.append(" ".join(data.split()))

    @property
    def text(self):
        return " ".join(self.words)

    def check(self):
        """Every address is a file on this disk, no id stands twice, nothing is loaded from elsewhere."""
        lists = [one[kind] for one in (self.data or {}).get("reconstructions", ()) for kind in ("strips", "stage1", "movies", "pairs")]
        pictures = [f"{entry['folder']}/{name}" for entry in lists if entry for name in entry["files"] if name]
        for address in self.addresses + pictures:
            path, _, part = address.partition("#")
            assert ":" not in path and (self.path.parent / unquote(path)).exists(), address
            assert path or part in self.ids, address
        assert len(set(self.ids)) == len(self.ids)
        assert 'name="viewport"' in self.source
        return self


# ---------------------------------------------------------------------------------------------- a made run


def frames_of(seed):
    return np.random.default_rng(seed).integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)


def make_reconstruction(folder, dataset, arm="full", clips=range(1, CLIPS + 1), truth=True, checkpoints=("semantic",), subject=1):
    """What video_recons.py leaves for the pages: manifest, GIFs, strips."""
    entries, rng = {}, np.random.default_rng(0)
    for clip in clips:
        gt, frames = frames_of(clip), frames_of(100 + clip)
        write_strip(folder / f"strips/test{clip}.png", *[gt] * truth, frames)
        for name, shown in (("results_recons", frames), ("results_recons_with_gt", np.concatenate([gt, frames], axis=2))):
            if truth or name == "results_recons":
                (folder / name).mkdir(exist_ok=True)
                stem = f"test{clip}" if name == "results_recons" else f"test_and_gt{clip}"
                pictures = [Image.fromarray(frame) for frame in shown]
                pictures[0].save(folder / name / f"{stem}.gif", save_all=True, append_images=pictures[1:], duration=120, loop=0)
        entries[clip] = {"stem": f"test{clip}", "size": SIZE, "seconds": 0.5, "seed": int(rng.integers(1000))}
        if truth:
            nearest = {"nearest_captions": {CAPTIONS[1]: 0.75, CAPTIONS[0]: 0.5}}
            words = {"caption": CAPTIONS[clip - 1], **nearest, "rank": 1 + (clip != 2), "n_captions": 5}
            entries[clip] |= {"pair": f"test_and_gt{clip}", **words}
    folders = {"recons": "results_recons", "strips": "strips"} | ({"with_gt": "results_recons_with_gt"} if truth else {})
    facts = {"dataset": dataset.name, "phantom": dataset.simulated, "subject": subject, "name": folder.name, "arm": arm, "ablate": None}
    facts |= {"split": "test", "n_clips": CLIPS, "seed": 42, "settings": {"steps": 3, "format": ["gif", "npz"]}, "folders": folders}
    facts |= {"checkpoints": {name: {"file": f"{name}/last.safetensors", "sha256": "ab" * 32, "epoch": 3} for name in checkpoints}}
    write_json(folder / "manifest.json", facts | {"seconds_per_clip": 0.5, "clips": entries})


def make_evaluation(folder, dataset, method, baselines=()):
    """What evaluate.py leaves for the pages."""
    folder.mkdir(parents=True)
    with open(folder / "per_clip.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([("clip", "SSIM", "EPE"), *((clip, SSIM.get(clip, ""), 10 * clip) for clip in range(1, CLIPS + 1))])
    summary = {"mean": float(np.mean(list(SSIM.values()))), "std": 0.28, "se": 0.12, "n": 5}
    rows = {name: {"SSIM": summary, "EPE": {**summary, "mean": 35.0, "n": 6}, "VIFI-score": None} for name in (method, *baselines)}
    facts = {"title": f"{dataset.name} subject 1, {method}, protocol paper", "protocol": "paper", "method": method, "rows": rows}
    facts |= {"dataset": dataset.name, "phantom": dataset.simulated, "columns": ["SSIM", "EPE", "VIFI-score"], "chance": {"SSIM": 0.125}}
    facts |= {"lower_is_better": ["EPE"], "clips": {"wanted": 6, "scored": 6, "missing": []}}
    facts |= {"not_scored": {"VIFI-score": "no --vifi_path"}}
    write_json(folder / "metrics.json", facts)
    (folder / "table.md").write_text("| not | what | the report reads |\n| --- | --- | --- |\n| a | b | c |\n")
    picture(folder / "distributions.png")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def make_checks(folder, seed=42):
    rows = [
        {"claim": "motion", "statement": "EPE below the still's", "held": True, "value": 1.0, "control": 1.84, "se": 0.06, "n": 40}
        | {"bar": "difference > 4 SE", "compared_with": "the still", "note": "Still: the first <frame> eight times.", "margin": 9.5},
        {"claim": "motion", "statement": "direction right", "held": False, "value": 0.5, "control": 0.25}
        | {"chance": 0.25, "n": 40, "bar": ">= 0.6"},
        {"claim": "mask", "statement": "shown without a bar", "held": None, "value": 1.0, "control": 0.1, "n": 40, "bar": "none"},
    ]
    write_json(folder / "metrics.json", {"about": "The simulated brain answers early.", "seed": seed, "n_clips": 40, "checks": rows})
    picture(folder / "motion.png")


def make_run(root, dataset, subject=1, arms=("full", "control")):
    """A finished run of a subject -> Layout."""
    layout = Layout(root / dataset.name)
    for arm in arms:
        make_reconstruction(layout.recons(subject, arm), dataset, arm, subject=subject)
        make_evaluation(layout.metrics(subject, arm), dataset, arm, ("mean frame",) if arm == arms[0] else ())
        picture(layout.root / f"checkpoints/sub{subject}/{arm}/figures/CMG_loss.png")
    maps, searched = layout.explain(subject) / "Cortical_visualization/CMG", layout.retrieval(subject) / "small_set"
    for path in (layout.explain(subject) / "shuffle_test/shuffle_test.png", maps / "cortex.png", searched / "top_k.png"):
        picture(path)
    for path in (maps / "cortex.html", searched / "gallery.html"):
        path.write_text("a page")
    for check in dataset.checks:
        make_checks(layout.metrics(subject, Path(check).stem))
    write_text(layout.metrics(subject, "any").parents[1] / "tables/main_table.md", "| a |")
    facts = {"vertices": {"all": 59412, "selected": [4500]}, "inter_repetition_correlation": {"selected": {"mean": 0.336}}}
    write_json(layout.fmri_report(subject), facts | {"test_norm": "own"})
    picture(layout.fmri_report(subject).parent / "figures/noise_ceiling.png")
    return layout


TIMES = {"step1 <a>": {"stage": "phantom", "seconds": 3.0, "core_seconds": 60.0, "peak_GB": 0.6}}


@pytest.fixture
def run(tmp_path):
    layout = make_run(tmp_path, PHANTOM)
    return layout, build_report(layout, PHANTOM, 1, 42, TIMES)


# ---------------------------------------------------------------------------------------------- parts of pages


def test_addresses_and_numbers():
    assert pages.relative("a/b c/x.gif", "a/page.html") == "b%20c/x.gif" and pages.relative("a/x.gif", "a/b/page.html") == "../x.gif"
    assert [pages.number(value) for value in (0.123456, 59412, None, "words")] == ["0.1235", 59412, "–", "words"]


def test_what_a_side_of_a_comparison_was_made_from(tmp_path):
    make_reconstruction(tmp_path / "x", PHANTOM)
    assert compare.made_from(tmp_path / "x").startswith("Decoded from the fMRI.") and compare.made_from(tmp_path) == ""


def test_pages_link_the_built_site_or_else_its_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "PROJECT", tmp_path)
    for name in ("docs/a.md", "docs/b.md", "site/a.html"):
        write_text(tmp_path / name, "")
    page = Page(pages.render("overview.html", tmp_path / "out/page.html", title="t", docs=("a", "b", "c"), subjects=[]))
    assert {"../site/a.html", "../docs/b.md"} == {address for address in page.addresses if address.startswith("..")}


def test_whatever_a_page_shows_is_escaped(tmp_path):
    folder = tmp_path / "x"
    make_reconstruction(folder, PHANTOM)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"name": NAMED, "settings": {"<i>flag</i>": "<u>value</u>"}}
    manifest["checkpoints"] = {"<s>": {"file": "<p>", "sha256": "<q>" * 9, "epoch": 1}}
    write_json(folder / "manifest.json", manifest)
    page = Page(gallery.build_gallery(folder))
    for raw in ("<b>blue", "<fMRI>", "<i>flag", "<u>", "<s>", "<p>&", "<q>"):
        assert raw not in page.source
    assert NAMED in page.text and "<u>value</u>" in page.text
    assert "a <b>blue</b> star" in page.data["captions"] and page.data["reconstructions"][0]["name"] == NAMED


def test_templates_are_installed_with_the_package():
    """Every file of templates/ matches the package data of pyproject.toml, and is used."""
    import tomllib

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["common.pages"]
    folder = ROOT / "common/pages"
    files = {path for path in (folder / "templates").iterdir() if path.is_file()}
    assert files == {path for pattern in patterns for path in folder.glob(pattern)}
    sources = "".join(path.read_text() for path in (*ROOT.glob("[A-Zc]*/*.py"), *folder.glob("*.py"), *files))
    assert all(f'"{path.name}"' in sources for path in files)


# ---------------------------------------------------------------------------------------------- gallery


def test_gallery_knows_every_clip(tmp_path):
    folder, metrics = tmp_path / "full", tmp_path / "metrics"
    make_reconstruction(folder, PHANTOM)
    (folder / "strips/test3.png").unlink()
    make_evaluation(metrics, PHANTOM, "full")
    (metrics / "SSIM.csv").write_text("clip,SSIM\n1,9\n")  # of a metric's own script, which may have been asked for other things
    page = Page(gallery.build_gallery(folder, metrics)).check()
    assert "Phantom." in page.text and "protocol paper" in page.text and "table.md" in page.text
    assert "is the nearest for 1 of 6 clips (by chance 1.2), median rank 2" in page.text
    assert page.words[page.words.index("SSIM") + 1 :][:4] == ["0.5", "0.12", "5", "0.125"]  # mean, standard error, clips, chance
    data, (one,) = page.data, page.data["reconstructions"]
    assert data["numbers"] == [1, 2, 3, 4, 5, 6] and data["captions"] == CAPTIONS and data["ranked_by"] == "SSIM"
    assert data["typical"] == ["median", None, None, "worst", "best", None]
    assert data["metrics"] == [{"name": "SSIM", "lower": False, "chance": 0.125}, {"name": "EPE", "lower": True, "chance": None}]
    assert one["values"] == {"SSIM": [0.5, 0.25, 0.75, 0.125, 0.875, None], "EPE": [10, 20, 30, 40, 50, 60]}
    assert one["strips"] == {"folder": "strips", "files": ["test1.png", "test2.png", None, "test4.png", "test5.png", "test6.png"]}
    assert one["stage1"] is None and one["rows"] == 2 and one["small"] and one["zoom"] == 17 / 16
    assert [(data["sentences"][i], cosine) for i, cosine in one["nearest"][0]] == [(CAPTIONS[1], 0.75), (CAPTIONS[0], 0.5)]


def test_gallery_shows_other_reconstructions_beside_its_own(tmp_path):
    """Those of the same subject and split; metrics only where both were scored alike, which is said."""
    layout = make_run(tmp_path, PHANTOM, arms=("full", "control", "oracle"))
    make_reconstruction(layout.recons(1, "train"), PHANTOM, clips=(2, 6))
    manifest = json.loads((layout.recons(1, "train") / "manifest.json").read_text())
    write_json(layout.recons(1, "train") / "manifest.json", manifest | {"split": "train"})
    make_reconstruction(layout.recons(1, "few"), PHANTOM, clips=(2, 6))
    facts = json.loads((layout.metrics(1, "oracle") / "metrics.json").read_text())
    write_json(layout.metrics(1, "oracle") / "metrics.json", facts | {"protocol": "correct"})
    (layout.recons(1, "broken")).mkdir()
    (layout.recons(1, "broken") / "manifest.json").write_text("{")
    page = Page(gallery.build_gallery(layout.recons(1, "full"), layout.metrics(1, "full")))
    assert page.addresses[:2] == ["../broken/gallery.html", "../control/gallery.html"]  # which are there or are made next
    shown = {one["name"]: one for one in page.data["reconstructions"]}
    assert list(shown) == ["full", "control", "few", "oracle"]
    assert shown["few"]["made"] == [False, True, False, False, False, True] and shown["few"]["strips"]["folder"] == "../few/strips"
    assert shown["control"]["values"]["SSIM"][0] == 0.5 and shown["oracle"]["values"] == shown["few"]["values"] == {}
    assert "scored with another protocol" in shown["oracle"]["about"] and shown["few"]["about"].startswith("Decoded from the fMRI.")


def test_movie_strips(tmp_path):
    """Frames in a row, a row for each clip, wide ones shrunk; the gap is what `zoom` says."""
    clips = np.stack([frames_of(1), frames_of(2)])
    write_strip(tmp_path / "a.png", *clips)
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape == (2 * (SIZE + 1), FRAMES * (SIZE + 1), 4) and zoom(SIZE) == (SIZE + 1) / SIZE
    assert np.array_equal(picture[SIZE + 1 : -1, 3 * (SIZE + 1) :][:, :SIZE, :3], clips[1, 3])
    write_strip(tmp_path / "b.png", np.zeros((3, 256, 512, 3), np.uint8))
    width, height = Image.open(tmp_path / "b.png").size
    assert (width, height) == (3 * (STRIP_FRAME + 4), STRIP_FRAME // 2 + 4) and zoom(512) == (STRIP_FRAME + 4) / STRIP_FRAME


@pytest.mark.parametrize(
    "name, entry, value, says",
    [
        ("manifest", "clips", [1], "list where a dict"), ("manifest", "clips", {"x": {"stem": "a"}}, "a clip 'x', which is no number"),
        ("manifest", "clips", {"1": {}}, "no entry 'stem'"), ("manifest", "clips", {"1": {"stem": "a", "nearest_captions": ["a"]}}, "list where"),
        ("manifest", "checkpoints", {"a": {"sha256": 3}}, "int where a str"),
        ("manifest", "name", None, "NoneType where a str"), ("metrics", "rows", {"full": [1]}, "list where a dict"),
        ("metrics", "method", "other", "no row of its method other"), ("metrics", "chance", {"SSIM": "x"}, "str where a float"),
    ],
)  # fmt: skip
def test_a_damaged_record_is_named(tmp_path, name, entry, value, says):
    folder, metrics = tmp_path / "full", tmp_path / "metrics"
    make_reconstruction(folder, PHANTOM, clips=[1])
    make_evaluation(metrics, PHANTOM, "full")
    path = {"manifest": folder, "metrics": metrics}[name] / f"{name}.json"
    write_json(path, json.loads(path.read_text()) | {entry: value})
    with pytest.raises(UserError, match=f"{name}.json .*{says}"):
        gallery.build_gallery(folder, metrics)


def test_typical_clips():
    assert gallery.typical_clips([3, 1, 2, 4], {}) == (None, {1: "", 2: "", 3: ""})
    assert gallery.typical_clips([7], {7: {"SSIM": 0.5}}) == ("SSIM", {7: "best, SSIM 0.5"})
    assert gallery.typical_clips([1, 2], {1: {"EPE": 3.0}, 2: {"EPE": 1.0}}) == (None, {1: "", 2: ""})  # nothing where more is better
    metric, chosen = gallery.typical_clips(range(1, 6), {clip: {"PSNR": float(clip), "SSIM": np.nan} for clip in range(1, 6)})
    assert metric == "PSNR" and list(chosen) == [5, 3, 1]


def test_gallery_without_truth_and_without_decoders(tmp_path):
    """Rows of any recording, and stage 1 of others: no true clips, no captions, no checkpoints."""
    folder = tmp_path / "mine"
    make_reconstruction(folder, CC2017, truth=False, checkpoints=())
    manifest = json.loads((folder / "manifest.json").read_text())
    for key in ("checkpoints", "arm", "ablate", "subject", "split", "n_clips", "dataset", "phantom"):
        del manifest[key]
    write_json(folder / "manifest.json", manifest)
    page = Page(gallery.build_gallery(folder)).check()
    (one,) = page.data["reconstructions"]
    assert one["rows"] == 1 and one["pairs"] is None and not one["values"] and page.data["captions"] == [None] * CLIPS
    assert "The true clips are not known" in page.text and "phantom" not in page.source.lower()
    strip = np.asarray(Image.open(folder / "strips/test2.png"))
    assert strip.shape == (SIZE + 1, FRAMES * (SIZE + 1), 4) and np.array_equal(strip[:SIZE, :SIZE, :3], frames_of(102)[0])


# ---------------------------------------------------------------------------------------------- report and overview


def test_report_links_resolve_and_say_what_the_data_are(run):
    layout, path = run
    assert path == layout.root / "report_sub1.html" and build_overview(layout, PHANTOM) == layout.report
    page = Page(path).check()
    assert "Phantom." in page.text and "4500 of 59412 vertices selected; their repetitions correlate with r = 0.336" in page.text
    assert "1.0 core-minutes" in page.text and "step1 <a>" in page.text and "<a>" not in page.source
    assert all(parent == "a" for _, parent in page.images)
    explained = ("explain/sub1/shuffle_test/shuffle_test.png", "explain/sub1/Cortical_visualization/CMG/cortex.html")
    assert page.addresses[:2] == ["recons/sub1/full/gallery.html", "recons/sub1/control/gallery.html"]  # before all else
    make_reconstruction(layout.recons(2, "full"), PHANTOM, subject=2)
    assert Page(build_report(layout, PHANTOM, 1, 42, {})).addresses[0] == "report.html"
    linked = ("metrics/sub1/full/table.md", "metrics/sub1/full/per_clip.csv", "metrics/tables/main_table.md")
    for address in (*linked, *explained, "retrieval/sub1/small_set/gallery.html"):
        assert address in page.addresses
    assert {"evaluation", "reconstruction", "explain"} <= {Path(address).stem for address in page.addresses}
    for name in ("full", "control"):
        assert {"../../../report_sub1.html"} <= set(Page(layout.recons(1, name) / "gallery.html").check().addresses)
    assert "../control/gallery.html" in Page(layout.recons(1, "full") / "gallery.html").addresses


def test_report_reads_the_numbers_from_metrics_json(run):
    page = Page(run[1])
    start = page.words.index("method")
    row = page.words[page.words.index("full", start) :][:7]
    assert row == ["full", "6", "0.500", "± 0.280", "35.000", "± 0.280", "–"]
    assert page.text.count("mean frame") == 1 and "EPE ↓" in page.text and "VIFI-score: no --vifi_path." in page.text
    chance = page.words[page.words.index("chance", start) :][:4]
    assert chance == ["chance", "0.125", "–", "–"] and "the report reads" not in page.text


@pytest.mark.parametrize(
    "control, words",
    [
        (0.4, "better by SSIM; undecided by EPE."), (0.6, "undecided by EPE; worse by SSIM. Nothing here shows that the clips were read from the fMRI."),
    ],
)  # fmt: skip
def test_report_compares_with_the_control_clip_by_clip(tmp_path, control, words):
    layout, clips = make_run(tmp_path, PHANTOM), np.arange(1, 31)
    assert "against control, whose" not in Page(build_report(layout, PHANTOM, 1, 42, {})).text  # no values of clips
    noise = np.random.default_rng(0).normal(0, 0.02, (2, len(clips)))
    for arm, ssim, epe in (("full", 0.5 + noise[0], 2 + noise[0]), ("control", control + noise[1], 2 + noise[0][::-1])):
        save_per_clip(layout.metrics(1, arm) / "per_clip.npz", clips, {"SSIM": ssim, "EPE": epe})
    text = Page(build_report(layout, PHANTOM, 1, 42, {})).text
    assert (
        "phantom, full against control, whose decoders learned from fMRI of other clips (protocol paper, 30 clips, 95 % bootstrap interval of the "
        f"paired difference, not corrected for the number of metrics): {words}" in text
    )


def test_report_says_whose_models_scored_and_decoded(tmp_path):
    """The phantom's models know nothing of the world; a decoder of another folder is another decoder."""
    layout = make_run(tmp_path, PHANTOM)
    for arm, change in (("full", {}), ("control", {"settings": {"stage1_from": "outputs/knn"}, "arm": None})):
        path = layout.recons(1, arm) / "manifest.json"
        write_json(path, read_json(path) | change)
        path = layout.metrics(1, arm) / "metrics.json"
        write_json(
            path,
            read_json(path)
            | {"models": {"image": {"source": str(ROOT / "phantom/models/image_classifier")}, "video": {"source": "MCG-NJU/x"}}},
        )
    words = "Scored by the phantom's models (image), which know drawn shapes alone."
    page = Page(build_report(layout, PHANTOM, 1, 42, {}))
    assert words not in page.text and "Its semantic decoder is semantic/last.safetensors." in page.text
    assert "Stage 1 by another decoder, of outputs/knn." in page.text
    for arm in ("full", "control"):
        path = layout.metrics(1, arm) / "metrics.json"
        write_json(path, read_json(path) | {"phantom": False})
    assert words in Page(build_report(layout, PHANTOM, 1, 42, {})).text


def test_report_shows_a_strip_of_every_arm(tmp_path):
    layout = make_run(tmp_path, PHANTOM, arms=("full", "control", "oracle"))
    make_reconstruction(layout.recons(1, "recipe"), PHANTOM, "oracle", clips=(2, 6))  # without the clips shown of the others
    page = Page(build_report(layout, PHANTOM, 1, 42, {}))
    for name, clips in (("full", (5, 1, 4)), ("control", (5, 1, 4)), ("oracle", (5, 1, 4)), ("recipe", (2, 6))):
        assert [source for source, _ in page.images if f"/{name}/strips" in source] == [
            f"recons/sub1/{name}/strips/test{i}.png" for i in clips
        ]
    assert "recons/sub1/oracle/gallery.html#clip=4" in page.addresses  # a strip's words lead to the clip's page
    assert "the best, the median and the worst clip of full by SSIM" in page.text and "Time and memory" not in page.text


def test_other_seeds_stand_behind(tmp_path):
    layout = make_run(tmp_path, PHANTOM, arms=("control", "full", "control_seed1", "full_seed1"))
    make_checks(layout.metrics(1, "phantom_checks_seed1"), seed=1)
    page = Page(build_report(layout, PHANTOM, 1, 1, {}))
    assert len(set(page.ids)) == len(page.ids)
    assert page.text.index("1 of 2 claims hold, seed 1") < page.text.index("1 of 2 claims hold, seed 42")
    assert page.text.index("subject 1, seed 1, 40") < page.text.index("subject 1, seed 42, 40")
    galleries = [address for address in page.addresses if address.endswith("gallery.html")]
    assert [Path(address).parent.name for address in galleries[:4]] == ["full_seed1", "control_seed1", "control", "full"]


def test_claims_say_what_they_compare_with(run):
    page = Page(run[1])
    assert "1 of 2 claims hold" in page.text and "The simulated brain answers early." in page.text
    start = page.words.index("Still: the first <frame> eight times.")
    row = ["holds", "EPE below the still's", "1.000", "± 0.060", "1.840", "the still", "difference > 4 SE", "9.5 SE", "40"]
    assert page.words[start + 1 :][:9] == row
    assert page.words[start + 10 :][:6] == ["missed", "direction right", "0.5000", "0.2500", "≥ 0.6", "0.2500"]  # with what is not said
    assert page.text.count("Still:") == 1 and "metrics/sub1/phantom_checks/motion.png" in page.addresses
    assert "control" not in [words.lower() for words in page.words[start:][:20]]


def test_report_of_an_unfinished_run(tmp_path):
    layout = Layout(tmp_path / "CC2017")
    page = Page(build_report(layout, CC2017, 2, 42, {}))
    assert "Mind-Animator" in page.text and not page.images
    write_json(layout.fmri_report(2), {"vertices": {"all": 300, "selected": [300], "what": "voxels"}})
    assert "300 of 300 voxels selected." in Page(build_report(layout, CC2017, 2, 42, {})).text


def test_overview_forwards_to_the_only_report(run):
    layout, path = run
    page = Page(build_overview(layout, PHANTOM)).check()
    assert f'<meta http-equiv="refresh" content="0; url={path.name}">' in page.source and page.addresses.count(path.name) >= 2
    make_run(layout.root.parent, PHANTOM, subject=2)
    build_report(layout, PHANTOM, 2, 42, TIMES)
    page = Page(build_overview(layout, PHANTOM)).check()
    assert "refresh" not in page.source and {"report_sub1.html", "report_sub2.html"} <= set(page.addresses)
    assert (
        page.text.count("1 of 2 claims hold") == 2
        and page.text.count("protocol paper, 6 clips") == page.text.count("0.500") == 2
        and len(page.images) == 2
    )
    assert (
        page.text.count("Epochs of its decoders: 3 (semantic).") == 2 and "Epochs of its decoders: 3" in Page(layout.subject_report(1)).text
    )
    Page(layout.subject_report(1)).check()


def test_the_banner_is_the_data_sets_own(tmp_path, monkeypatch):
    """Nothing is hard-wired to one simulated data set."""
    other = replace(CC2017, name="ghost", note="Ghost. Made of air.")
    monkeypatch.setitem(DATASETS, "ghost", other)
    layout = make_run(tmp_path, other, arms=("full",))
    for path in (build_report(layout, other, 1, 42, {}), layout.recons(1, "full") / "gallery.html"):
        assert "Ghost. Made of air." in Page(path).text and "phantom" not in path.read_text().lower()


# ---------------------------------------------------------------------------------------------- the tour


def test_the_page_of_the_tour_is_its_script():
    """docs/tour.md is what render_page.py makes of the script now, and its pictures are there and small."""
    page = (ROOT / "docs/tour.md").read_text()
    assert page == to_markdown((ROOT / "examples/phantom_tour.py").read_text()), "run examples/render_page.py again"
    pictures = [ROOT / "docs" / address for address in re.findall(r"!\[.+?\]\((.+?)\)", page)]
    assert len(pictures) == 6 and sum(path.stat().st_size for path in pictures) < 600_000
    assert to_markdown("# %% [markdown]\n# # A\n#\n# text\n\n# %%\nx = 1  # why\n") == "# A\n\ntext\n\n```python\nx = 1  # why\n```\n"


# ---------------------------------------------------------------------------------------------- comparison


def test_comparison_page(tmp_path):
    """Two evaluations of the same clips: the table of differences and the clips where they differ most."""
    clips = np.stack([frames_of(i) for i in range(CLIPS)])
    recons = tmp_path / "recons/sub1/mine/results_recons"
    recons.mkdir(parents=True)
    (tmp_path / "report_sub1.html").touch()
    for i, clip in enumerate(clips, 1):
        np.savez(recons / f"test{i}.npz", frames=clip)
    values = np.linspace(0.2, 0.7, CLIPS)
    for name, method, scores in (("a", NAMED, values), ("b", "yours", values - np.array([np.nan, 0.3, 0, 0.5, 0.1, 0.2]))):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "gt.npy", clips)
        np.savez(tmp_path / name / "per_clip.npz", clip=np.arange(1, CLIPS + 1), SSIM=scores)
        facts = {
            "protocol": "paper", "method": method, "phantom": True, "dataset": "phantom", "subject": 1, "columns": ["SSIM"], "chance": {},
        }  # fmt: skip
        reads = {"recons": str(recons), "layout": "ours", "gt": str(tmp_path / name / "gt.npy")}
        reads |= {"form": {"n_frames": 8, "size": SIZE}}
        write_json(tmp_path / name / "metrics.json", facts | {"reads": reads})
    argv = [str(tmp_path / "a"), str(tmp_path / "b"), "--n_clips", "2"]
    compare.main(cli.parse(compare.get_parser, argv, "Evaluation_Metrics/compare"))
    page = Page(tmp_path / "a/compare_b/gallery.html").check()
    assert [words for words in page.words if words.startswith("Clip ")] == ["Clip 4", "Clip 2"]
    assert [parent for _, parent in page.images] == (["span"] * 3 + ["a"] * 3) * 2 and "Phantom." in page.text  # films, their strips
    assert NAMED in page.text and "<fMRI>" not in page.source and {"differences.csv", "../../report_sub1.html"} <= set(page.addresses)
    assert Image.open(tmp_path / "a/compare_b/strips/clip4_truth.png").size == (8 * (SIZE + 1), SIZE + 1)
    assert page.words[page.words.index("SSIM") + 1 :][:6] == ["A", "0.2200", "0.0800 to 0.3800", "0.5000", "0.2800", "5"]
