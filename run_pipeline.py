"""Run the whole chain, or some of its stages, in order, for participants, training seeds and ablations.

Each stage calls its scripts with the flags that they know, the pipeline's own and any others that are given here; what
is done is skipped, and the first failure stops the chain with the script's own message. Scripts that don't depend on
each other run at the same time, here or on a SLURM cluster (docs/cluster.md).

Writes   {out_root}/{dataset}/report.html, report_sub{ID}.html, sweep.md and .csv (several seeds, participants or
         ablations), timings_sub{ID}.json and logs/sub{ID}/**/*.log, besides what the scripts write; with --cluster,
         jobs/*.sbatch and *.log

    python run_pipeline.py --dataset phantom --data_root data --out_root outputs
    python run_pipeline.py --dataset CC2017 --data_root DATA --subj_ID 1 2 3 --vifi_path k400_seed1_vifi_clip_base2novel.pth \\
        --image_classifier google/vit-base-patch16-224 --clip_classifier MCG-NJU/videomae-base-finetuned-kinetics
    python run_pipeline.py --dataset phantom --epoch 10 --out_root outputs_short
    python run_pipeline.py --dataset phantom --stages report
    python run_pipeline.py --dataset phantom --seeds 42 43 44 --ablate none semantic structure motion --dry_run
    python run_pipeline.py --dataset CC2017 --data_root DATA --subj_ID 1 2 3 --cluster slurm --partition gpu --gpus 1 --time 12:00:00
"""

import time

from common import cli
from common.arms import ARMS
from common.datasets import get_dataset
from common.layout import Layout
from common.workers import n_cores
from Evaluation_Metrics.metric_script import kinds_of
from Evaluation_Metrics.protocols import protocol_metrics
from Evaluation_Metrics.report import build_overview, build_report, claims_held
from Evaluation_Metrics.sweep import gather_sweep
from Evaluation_Metrics.towers import HELP, KINDS, Towers
from jobs.cluster import make_batches, submit, write_script
from jobs.local import gpus_here, run_here
from jobs.plan import CLUSTER, Job, check_flags, check_inputs, check_sweep, make_plan, own_flags
from jobs.stages import ABLATIONS, STAGES, Task, ablations, choose_stages


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject="several", device=True)
    group = parser.add_argument_group("chain")
    stages = ",".join(STAGES)
    group.add_argument(
        "--stages", nargs="+", default=["all"], changes_result=False, metavar="STAGE",
        help=f"stages to run, separated by commas or spaces: all, or some of {stages} (default: all)",
    )  # fmt: skip
    group.add_argument(
        "--workers", type=cli.processes, default=n_cores(), changes_result=False,
        help="scripts that run at the same time, one core each, and where there are GPUs one on each; for a script that uses all cores, its processes",
    )  # fmt: skip
    group.add_argument("--arms", nargs="+", choices=list(ARMS), help="training arms (default: the data set's)")
    group.add_argument("--seeds", nargs="+", type=cli.whole(0, 2**32 - 1), metavar="SEED", help="training seeds (default: that of --seed)")
    group.add_argument(
        "--ablate", nargs="+", choices=["none", *ABLATIONS],
        help="parts that are left out of the arm full's reconstructions, one at a time (default: none and motion)",
    )  # fmt: skip
    group.add_argument("--dry_run", action="store_true", changes_result=False, help="plan of the jobs, printed and not run")
    group = parser.add_argument_group("cluster")
    group.add_argument(
        "--cluster", choices=["slurm", "print"], changes_result=False,
        help="batch scripts in place of running here: slurm submits them, print shows them",
    )  # fmt: skip
    group.add_argument("--partition", changes_result=False, help="partition of the cluster")
    group.add_argument("--gpus", type=cli.whole(0, 1024), default=1, changes_result=False, help="GPUs of a job that can use them; 0: none")
    group.add_argument("--time", metavar="HH:MM:SS", changes_result=False, help="time limit of a job; it saves its state and queues again")
    group.add_argument(
        "--sbatch", metavar="FLAGS", changes_result=False, help="further flags of sbatch, quoted as one argument: '--account=me --mem=64G'"
    )
    group = parser.add_argument_group("models")
    group.add_argument("--sd_path", metavar="SOURCE", help="Stable Diffusion, hub id or folder; default: the data set's")
    for flag, what in HELP.items():
        group.add_argument(f"--{flag}", metavar="SOURCE", help=f"{what}; default: the data set's own, if it comes with one")
    parser.set_defaults(others=[])  # flags of the scripts
    return parser


def print_plan(waves):
    """The plan, a line a job with its wave; jobs of a wave do not depend on each other."""
    for number, wave in enumerate(waves, 1):
        for job in wave:
            print(f"{number:3}  {job.task.stage:12} {'all' if job.shared[0] else f'sub{job.subject}':8} {job.name}")
    print(
        f"{sum(map(len, waves))} jobs in {len(waves)} waves; a job whose results are there ends at once; --cluster print shows the commands"
    )


def report_job(args):
    """The job that builds the reports when all others are done."""
    task = Task("report", "run_pipeline.py", ["--stages", "report"])
    argv = own_flags(task, args, get_parser()._actions, but=CLUSTER) + task.flags
    return Job(task, args.subj_ID[0], args.seed, argv, shared=(True, True))


def run_on_cluster(waves, layout, args):
    """Write the batch scripts of a plan; submit them, or show them."""
    batches = make_batches(waves)
    paths = [write_script(batch, layout.root / "jobs", args) for batch in batches]
    if args.cluster == "slurm":
        for number, batch in zip(submit(batches, paths), batches, strict=True):
            print(f"{number:>8}  {batch.name}")
    else:
        for batch, path in zip(batches, paths, strict=True):
            print(f"# {path}, after {', '.join(batches[i].name for i in batch.needs) or 'nothing'}\n{path.read_text()}")
    done = "submitted; squeue --me shows them" if args.cluster == "slurm" else "written"
    print(f"{len(batches)} batch scripts of {sum(len(batch.jobs) for batch in batches)} jobs {done}")


def write_pages(dataset, layout, args, timings):
    """Reports of every participant and seed, the table over seeds, the overview."""
    seeds, parts = args.seeds or [args.seed], ablations(args)
    for subject in args.subj_ID:
        page = build_report(layout, dataset, subject, seeds[0], timings[subject])
        print("; ".join([f"report: {page}", *claims_held(layout, dataset, subject, seeds[0])]))
    if len(args.subj_ID) > 1 or args.seeds or args.ablate:
        variants = [(arm, None) for arm in args.arms if None in parts]
        variants += [("full", part) for part in parts if part] if args.ablate and "full" in args.arms else []
        print(f"table over seeds: {gather_sweep(layout, args.subj_ID, seeds, variants) or 'nothing was scored'}")
    print(f"overview: {build_overview(layout, dataset)}")


def main(args):
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    args.arms = args.arms or list(dataset.arms)
    check_sweep(args)
    stages = choose_stages(dataset, args)
    planned = [stage for stage in stages if stage != "report"] if args.cluster else stages  # its job is this script again
    waves = make_plan(planned, dataset, args, get_parser()._actions)
    jobs = [job for wave in waves for job in wave]
    check_flags(jobs, args, get_parser()._actions)
    check_inputs(stages, args)
    needed = kinds_of(protocol_metrics("paper", dataset))
    if "evaluate" in stages and (absent := [f"--{KINDS[kind][0]}" for kind in KINDS if kind in needed and kind not in Towers.of(args)]):
        print(f"metrics that need {', '.join(absent)} will be dashes")
    if args.dry_run:
        return print_plan(waves)
    if args.cluster:
        return run_on_cluster([*waves, [report_job(args)]] if "report" in stages else waves, layout, args)
    began = time.time()
    gpus = [] if args.device == "cpu" else gpus_here() * (args.workers if dataset.simulated else 1)  # a phantom's jobs are small
    timings = run_here(waves, layout, args.subj_ID, args.workers, f"{args.dataset} {' '.join(map(str, args.subj_ID))}", gpus)
    if "report" in stages:
        write_pages(dataset, layout, args, timings)
    print(f"{args.dataset}: stages {', '.join(stages)} done in {(time.time() - began) / 60:.1f} min")


if __name__ == "__main__":
    cli.run(main, get_parser)
