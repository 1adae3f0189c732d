"""Every numeric flag of every script has its range where it is defined; paths of the home folder; output in any encoding."""

import argparse
import importlib
import io
import sys

import pytest
from test_house import SCRIPTS, module_name, relative
from tiny import load_script, run_script

NO_NUMBERS = ("nan", "inf", "-inf", "1e400", "1_0", "x", "", "0x10", "٣", "1,5", "9" * 5000)
BIG = {"--seed", "--seeds", "--train_seed"}  # which take numbers above a million
NEGATIVE = {"--lag", "--min_vifi"}
ZERO = {  # for which 0 is a number like others
    "--seed", "--seeds", "--gpus", "--train_seed", "--lag", "--min_vifi", "--crf", "--jpg_quality", "--num_workers", "--save_every", "--n_blocks", "--k1", "--k2", "--w", "--k",
    "--alpha", "--dropout", "--mask_ratio", "--digits", "--guidance", "--guidance_interval", "--noise_timestep", "--trend_order", "--threshold",
}  # fmt: skip
REFUSED = {  # of a flag, or of a script's
    "--dropout": ("1", "2"), "--mask_ratio": ("1.5",), "--warm_up": ("0", "0.5"), "--n_heads": ("0", "1025"), "--n_blocks": ("101",),
    "--n_bootstraps": ("-3", "1"), "--lr": ("0",), "--lr_scale": ("0",), "--crf": ("52",), "--jpg_quality": ("101",), "--digits": ("11",),
    "--noise_timestep": ("1000",), "--guidance": ("1001",), "--lag": ("61", "-61"), "--n_way": ("1",), "--num_workers": ("257",), "--workers": ("0", "1025"),
    "--trend_order": ("21", "1.5"), "--batch_size": ("0", "2.5"), "--reliability": ("1",), "--gpus": ("1025",), "--N": ("101",), "--min_vifi": ("1.1", "-1.1"),
    **dict.fromkeys(("--steps", "--inversion_steps", "--deep_every", "--start_timestep", "--guidance_interval"), ("1000",)),
    **dict.fromkeys(("--hidden_dim", "--attn_dim", "--d_ff", "--encoder_dim", "--projector_dims", "--token_dim"), ("65537",)),
    **dict.fromkeys(("--seed", "--seeds", "--train_seed"), ("4294967296",)),
    **dict.fromkeys(("Feature_decoding/train_semantic_decoder.py --alpha", "Retrieval/train_retrieval_decoder.py --alpha"), ("1.1",)),
    "Evaluation_Metrics/brain_score.py --n_bootstraps": ("99",), "Data_preprocess/Phantom/step3_train_models.py --classifier_bank": ("31",),
}  # fmt: skip


def numeric_flags():
    """(script, flag, type, default) of all numeric flags."""
    for path in SCRIPTS:
        for action in importlib.import_module(module_name(path)).get_parser()._actions:
            if action.option_strings and (numeric(action.type) or isinstance(action.default, (int, float))) and action.nargs != 0:
                yield relative(path), action.option_strings[0], action.type, action.default


def numeric(kind):
    return kind in (int, float) or getattr(kind, "__qualname__", "").startswith("_number")


def accepts(kind, text):
    try:
        return kind(text) is not None
    except argparse.ArgumentTypeError as error:
        assert "\n" not in str(error) and "; use a number" not in text and len(str(error)) < 150
        return False


def test_every_numeric_flag_has_its_range():
    flags = list(numeric_flags())
    assert len({flag for _, flag, *_ in flags}) > 40
    for script, flag, kind, default in flags:
        where = f"{script} {flag}"
        assert kind not in (int, float, None), where
        values = default if isinstance(default, list) else [default]
        assert all(value is None or accepts(kind, str(value)) for value in values), where
        refused = [*NO_NUMBERS, *REFUSED.get(flag, ()), *REFUSED.get(where, ())]
        refused += [text for text, known in (("-1", NEGATIVE), ("0", ZERO), ("1000000000", BIG), ("1e9", BIG)) if flag not in known]
        assert [text for text in refused if accepts(kind, text)] == [], where


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize(
    "argv, status, says",
    [(["--help"], 0, "usage:"), (["--dataset", "HCP", "--data_root", "däta–☃"], 1, "missing"), (["--dataset", "☃"], 2, "error: ")],
)
def test_output_in_any_encoding(tmp_path, monkeypatch, encoding, argv, status, says):
    """Through cli.run, as every script (tests/test_house.py); what the encoding lacks is a question mark."""
    argv = [*argv, "--subj_ID", "100610", "--workers", "1"] if "HCP" in argv else argv
    monkeypatch.chdir(tmp_path)
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors) for errors in ("strict", "backslashreplace")]  # as Python opens them
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    with pytest.raises(SystemExit) as stopped:
        run_script(load_script("Data_preprocess/check_data.py"), *argv)
    for stream in streams:
        stream.flush()
    said = b"".join(stream.buffer.getvalue() for stream in streams).decode(encoding)
    assert (stopped.value.code or 0) == status and says in said and "Traceback" not in said
    assert "d?ta" in said or "dä" in said or "HCP" not in argv
