"""The same plan for SLURM: a batch script a job, an array where jobs differ by one value, dependencies between waves."""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common.cli import PROJECT
from common.files import UserError, write_text

SHARDED = ("extract", "train", "reconstruct")  # stages whose scripts share their work over several GPUs
NOTICE = 120  # seconds before a time limit at which a job saves its state and queues again
_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --output="{log}"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{notice}
{directives}
cd {here} || exit 1
trap 'again=1; kill -TERM $job' USR1  # the time is up: the script saves what it has
trap 'kill -TERM $job' TERM
{values}{command} &
job=$!
wait $job
while kill -0 $job 2>/dev/null; do wait $job; done  # a signal ends the waiting, not the job
wait $job; status=$?
if [ -n "$again" ] && [ $status -ne 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $status
"""


@dataclass
class Batch:
    """Jobs that are one batch script: one, or several that differ by one value, an array."""

    jobs: list
    option: str | None  # --seed or --subj_ID, in which the jobs differ
    needs: list  # indices of the batches that it waits for

    @property
    def values(self):
        """Seeds or participants of an array, in the order of its indices, list of str."""
        return [job.argv[job.argv.index(self.option) + 1] for job in self.jobs] if self.option else []

    @property
    def argv(self):
        """Command line of the script, the array's value in place of the first."""
        words = [shlex.quote(word) for word in self.jobs[0].argv]
        if self.option:
            words[self.jobs[0].argv.index(self.option) + 1] = '"${values[$SLURM_ARRAY_TASK_ID]}"'
        return words

    @property
    def name(self):
        """Name of the batch script, of letters that every file system takes."""
        job = self.jobs[0]
        few = "_".join(self.values) if len(self.values) < 6 else str(len(self.values))
        numbers = f"{self.option.lstrip('-')}s {few}" if self.option else ""
        subject = "" if job.shared[0] or self.option == "--subj_ID" else f"sub{job.subject}"
        of_task = job.task.name if self.option == "--seed" else job.name
        return re.sub(r"[^\w.-]+", "_", f"{of_task} {subject} {numbers}").strip("_")


def _masked(job, option):
    """What jobs of one array have in common: everything but the value behind `option`; None for a job that has no such flag."""
    if option not in job.argv:
        return None
    place = job.argv.index(option) + 1
    return (job.task.script, *job.argv[:place], *job.argv[place + 1 :])


def make_batches(waves):
    """Batches of a plan, in order; those of a wave that differ by one value are arrays, over seeds or participants, whichever are fewer."""
    batches, waited_for = [], []
    for wave in waves:
        groupings = []
        for option in ("--seed", "--subj_ID"):
            groups = {}
            for i, job in enumerate(wave):
                groups.setdefault(_masked(job, option) or i, []).append(job)
            groupings.append((len(groups), option, list(groups.values())))
        _, option, groups = min(groupings, key=lambda grouping: grouping[0])
        made = []
        for jobs in groups:
            before = [i for i, batch in enumerate(batches) if any(job.needs(other) for job in jobs for other in batch.jobs)]
            implied = {i for j in before for i in waited_for[j]}
            made.append((Batch(jobs, option if len(jobs) > 1 else None, [i for i in before if i not in implied]), set(before)))
        batches += [batch for batch, _ in made]
        waited_for += [before for _, before in made]
    return batches


def write_script(batch, folder, args):
    """Write a batch script and return its path; `args` are those of run_pipeline.py."""
    task, device = batch.jobs[0].task, "--device" in batch.jobs[0].task.options
    gpus = (args.gpus if task.stage in SHARDED else min(args.gpus, 1)) if device else 0
    launcher = [sys.executable]
    if gpus > 1:
        launcher += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(gpus)]
    directives = [
        f"#SBATCH --array=0-{len(batch.values) - 1}" if batch.option else "",
        f"#SBATCH --partition={args.partition}" if args.partition else "",
        f"#SBATCH --gpus={gpus}" if gpus else "",
        f"#SBATCH --time={args.time}" if args.time else "",
        f"#SBATCH {args.sbatch}" if args.sbatch else "",
    ]
    path = folder / f"{batch.name}.sbatch"
    text = _SCRIPT.format(
        name=batch.name,
        log=folder.absolute() / f"{batch.name}{'_%a' if batch.option else ''}.log",
        notice=NOTICE,
        directives="\n".join(filter(None, directives)),
        here=shlex.quote(str(Path.cwd())),
        values=f"values=({' '.join(map(shlex.quote, batch.values))})\n" if batch.option else "",
        command=" ".join([*map(shlex.quote, [*launcher, str(PROJECT / task.script)]), *batch.argv]),
    )
    write_text(path, text)
    return path


def submit(batches, paths):
    """Submit batch scripts, each of which waits until those that it needs have ended well; all or none. Returns the jobs' numbers."""
    if shutil.which("sbatch") is None:
        raise UserError("--cluster slurm: there is no sbatch on the path; log in to a node that submits, or use --cluster print")
    numbers = []
    for batch, path in zip(batches, paths, strict=True):
        needs = [numbers[i] for i in batch.needs]
        waits = [f"--dependency=afterok:{':'.join(needs)}", "--kill-on-invalid-dep=yes"] if needs else []
        done = subprocess.run(["sbatch", "--parsable", *waits, str(path)], capture_output=True, text=True)
        number = done.stdout.strip().partition(";")[0]
        if done.returncode or not number.isdecimal():
            if numbers:
                subprocess.run(["scancel", *numbers], capture_output=True)
            said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            raise UserError(f"sbatch refused {path}, nothing was submitted ({said}); correct --partition, --gpus, --time or --sbatch")
        numbers.append(number)
    return numbers
