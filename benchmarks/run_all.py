"""Run the benchmarks of this folder and write what they print, with machine, versions and date.

Writes   benchmarks/RESULTS.md

    python benchmarks/run_all.py
    python benchmarks/run_all.py --only retrieval metrics

Seven minutes on two idle cores of a recent machine; other programs make the numbers worthless.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from threadpoolctl import threadpool_info

from common.files import write_text

HERE = Path(__file__).parent
SCRIPTS = {  # stage by stage; flags that keep the whole short
    "fmri_preparation": ["--runs", "4", "2", "--plain_vertices", "300"],
    "hcp_preparation": [],
    "extraction": [],
    "training": [],
    "cmg_generate": ["--clips", "256", "--plain_clips", "4"],
    "inflated_unet": ["--frames", "4", "--size", "32", "--precision", "fp32"],
    "writing": [],
    "retrieval": [],
    "metrics": ["--n_clips", "20"],
    "brain_score": ["--plain_vertices", "2"],
    "explain": [],
}
PACKAGES = ("torch", "numpy", "scipy", "diffusers", "transformers", "open_clip_torch", "opencv-python-headless", "nibabel", "scikit-learn")


def machine():
    """Processor, cores and libraries, as lines of Markdown."""
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE) if sys.platform == "linux" else []
    blas = sorted({f"{library['internal_api']} {library['version']}" for library in threadpool_info() if library["version"]})
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"- {datetime.date.today()}, {names[0] if names else platform.processor()}, {os.cpu_count()} cores, {platform.system()}\n"
        f"- Python {platform.python_version()}, {versions}; {', '.join(blas)}\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SCRIPTS), default=list(SCRIPTS), help="benchmarks to run (default: all)")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", help="file that is written (default: RESULTS.md here)")
    args = parser.parse_args()
    page = "# Plain forms and ours, timed side by side\n\n`make bench` writes this page. Plain forms are written from the released "
    page += "code's behaviour: per vertex, per clip, per shuffle, per trial, without a cache.\n\n" + machine()
    failed = []
    for name in args.only:
        command = [sys.executable, HERE / f"{name}.py", *SCRIPTS[name]]
        print(f"{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        failed += [name] * (done.returncode != 0)
        print(done.stdout, flush=True)
        shown = " ".join(["python", f"benchmarks/{name}.py", *SCRIPTS[name]])
        page += f"\n## {name}\n\n`{shown}`" + " ended with an error." * (done.returncode != 0) + f"\n\n```\n{done.stdout.strip()}\n```\n"
        write_text(args.out, page)  # after every one: a later one may be stopped
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
