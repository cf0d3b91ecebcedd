# The study as a graph: data -> one run per (model, seed) -> tables, figures, pages.
#   make study PROFILE=quick
#   make report PROFILE=paper     the pages again, from the runs that are there; nothing is trained
import json
import os
from pathlib import Path

from filelock import FileLock, Timeout
from snakemake.exceptions import WorkflowError

from rhseg_lib.errors import StudyError
from rhseg_lib.files import content_digest
from rhseg_lib.profile import fingerprint, load_profile

try:
    study = load_profile(str(config.get("profile", "quick")), root=".")
except StudyError as error:
    raise WorkflowError(str(error)) from None
PROFILE = study.name
REPORTS = f"reports/{PROFILE}"
RUNS = f"{REPORTS}/runs/{{model}}/seed{{seed}}"
MODELS, SEEDS = list(study.models), list(study.seeds)
PAGES = ["01_dataset", "02_architectures", "04_ablation", "05_comparison", "06_segmentations", "07_claims", "08_speed", "11_realtime"]
FRONT = "00_summary" if study.paper else "00_results"
if not study.paper:
    PAGES = [name for name in PAGES if name not in ("04_ablation", "07_claims")]
THICKNESS = "10_thickness" if study.data.source == "synthetic" else "10_own_thickness"
if study.thickness.fits(study.data.classes):
    PAGES.append(THICKNESS)
METRICS = expand(f"{RUNS}/metrics.json", model=MODELS, seed=SEEDS)
TRAINS = config.get("runs") != "finished"
if not TRAINS:
    PAGES.remove("08_speed")  # what a GPU has measured is not to be replaced by what this machine would
    METRICS = [path for path in METRICS if Path(path).exists()]
    if not METRICS:
        raise WorkflowError(f"no finished run in {REPORTS}/runs\n  fix:   make study PROFILE={PROFILE}")
RUN_PAGES = [f"03_train_{model}_{seed}" for model, seed in (Path(path).parts[3:5] for path in METRICS)]
if not TRAINS:  # of each model, its first seed
    RUN_PAGES = list({name.rpartition("_")[0]: name for name in reversed(RUN_PAGES)}.values())


def page(name):
    """The two files that running a notebook leaves."""
    return {"notebook": f"{REPORTS}/notebooks/{name}.ipynb", "html": f"{REPORTS}/html/{name}.html"}


def library(*packages):
    """The sources a step depends on, in the order of the imports: a change of content makes the step run again."""
    found = [path for name in packages for path in (Path(f"rhseg_lib/{name}.py"), *Path(f"rhseg_lib/{name}").rglob("*"))]
    return sorted(str(path) for path in found if path.suffix in (".py", ".yaml", ".j2", ".css", ".json") and path.exists())


def cells(name):
    """What a notebook says, whatever JupyterLab saves besides: outputs, counts, versions."""
    content = json.loads(Path(f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))
    return fingerprint([[cell["cell_type"], "".join(cell["source"])] for cell in content["cells"]])


# A notebook imports the report package for its tables and figures; the words there decide no data set and no weights.
DATA = library("errors", "files", "catalogue", "settings", "profile", "sources", "scenes", "dataset", "evaluation")
TRAINING = DATA + library("models", "training")
SHOWN = DATA + library("models", "thickness", "report")
# Without defaults: a key that a later version adds makes no data set again.
SETTINGS = fingerprint(study.data.model_dump(exclude_defaults=True), content_digest(study.root / study.data.folder) if study.data.folder else "")
WORDS = fingerprint(study.kind, study.title, study.leaky, study.paper)

COMMAND = (
    "python -m rhseg_lib.report.runner {input.source} --output {output.notebook}"
    f" --html {{output.html}} -p profile {PROFILE}"
)
# A page of data made by a report is not made again by the study, which would train again: the command stays the same.
os.environ["OMITTED"] = "" if TRAINS or Path(f"{REPORTS}/html/08_speed.html").exists() else "08_speed"
DATA_COMMAND = f"OMP_NUM_THREADS={{threads}} {COMMAND} --without $OMITTED"
if os.environ["OMITTED"]:
    COMMAND += " --without 08_speed"
RUN = "OMP_NUM_THREADS={threads} " + COMMAND


RUNNING = FileLock(f".snakemake/{PROFILE}.lock")  # ends with this process, however that ends


onstart:
    try:
        RUNNING.acquire(timeout=0)
    except Timeout:
        fix = "wait until it has ended, or stop it; then run again"
        raise WorkflowError(f"another run of the profile '{PROFILE}' is going on here\n  fix:   {fix}") from None


rule dataset:
    input:
        source=ancient("notebooks/01_dataset.ipynb"),
        library=DATA,
    output:
        **page("01_dataset"),
        dataset=update(f"data/{PROFILE}/voc/dataset.json"),  # not removed before the job: it marks the tree as complete
        baselines=f"{REPORTS}/tables/baselines.csv",
    params:
        settings=SETTINGS,
        cells=cells("01_dataset"),
    threads: workflow.cores
    shell:
        DATA_COMMAND


rule architectures:
    input:
        source=ancient("notebooks/02_architectures.ipynb"),
        library=SHOWN,
        dataset=rules.dataset.output.dataset,
    output:
        **page("02_architectures"),
        complexity=f"{REPORTS}/tables/complexity.csv",
        separable=f"{REPORTS}/tables/separable.csv",
        pooling=f"{REPORTS}/tables/ema_pooling.csv",
    params:
        cells=cells("02_architectures"),
    shell:
        RUN


if TRAINS:

    rule train:
        input:
            library=TRAINING,
            dataset=rules.dataset.output.dataset,
        output:
            f"{RUNS}/metrics.json",
        params:
            recipe=lambda wildcards: study.recipe_of(wildcards.model).digest,
        wildcard_constraints:
            seed=r"\d+",
        priority: 1  # the long ones first
        resources:
            gpu_gb=study.gpu_gb_per_run,  # of `--resources gpu_gb=N`: as many runs share a GPU as fit
        shell:
            "OMP_NUM_THREADS={threads} python -m rhseg_lib.training"
            f" --profile {PROFILE} --model {{wildcards.model}} --seed {{wildcards.seed}}"


rule run_page:  # of a finished run: it is shown, and not trained again
    input:
        source=ancient("notebooks/03_train.ipynb"),
        library=SHOWN + library("training"),
        metrics=f"{RUNS}/metrics.json",
        dataset=rules.dataset.output.dataset,
    output:
        **page("03_train_{model}_seed{seed}"),
    params:
        words=WORDS,
        cells=cells("03_train"),
    wildcard_constraints:
        seed=r"\d+",
    shell:
        RUN + " -p model {wildcards.model} -p seed {wildcards.seed}"


rule ablation:
    input:
        METRICS,
        source=ancient("notebooks/04_ablation.ipynb"),
        complexity=rules.architectures.output.complexity,
        library=SHOWN,
        dataset=rules.dataset.output.dataset,
    output:
        **page("04_ablation"),
        table2=f"{REPORTS}/tables/table2.csv",
    params:
        words=WORDS,
        cells=cells("04_ablation"),
    shell:
        RUN


rule comparison:
    input:
        METRICS,
        source=ancient("notebooks/05_comparison.ipynb"),
        complexity=rules.architectures.output.complexity,
        baselines=rules.dataset.output.baselines,
        library=SHOWN,
        dataset=rules.dataset.output.dataset,
    output:
        **page("05_comparison"),
        **({"table3": f"{REPORTS}/tables/table3.csv"} if study.paper else {}),
        latency=f"{REPORTS}/tables/latency.csv",
    params:
        words=WORDS,
        cells=cells("05_comparison"),
    threads: workflow.cores  # it measures time: nothing else may run beside it
    shell:
        RUN


rule segmentations:
    input:
        METRICS,
        source=ancient("notebooks/06_segmentations.ipynb"),
        library=SHOWN,
        dataset=rules.dataset.output.dataset,
    output:
        **page("06_segmentations"),
        figure5=f"{REPORTS}/figures/figure5.webp",
    params:
        words=WORDS,
        cells=cells("06_segmentations"),
    shell:
        RUN


rule thickness:
    input:
        METRICS,
        source=ancient(f"notebooks/{THICKNESS}.ipynb"),
        library=SHOWN,
        dataset=rules.dataset.output.dataset,
    output:
        **page(THICKNESS),
        errors=f"{REPORTS}/tables/thickness.csv",
        **({"pairs": f"{REPORTS}/tables/thickness_pairs.csv"} if THICKNESS == "10_thickness" else {}),
    params:
        words=WORDS,
        cells=cells(THICKNESS),
        settings=fingerprint(study.thickness.model_dump()),
    threads: workflow.cores  # scenes are rendered on all of them
    shell:
        RUN


rule claims:
    input:
        METRICS,
        getattr(rules.thickness.output, "pairs", []) if THICKNESS in PAGES else [],
        source=ancient("notebooks/07_claims.ipynb"),
        library=SHOWN,
        complexity=rules.architectures.output.complexity,
        separable=rules.architectures.output.separable,
        pooling=rules.architectures.output.pooling,
        latency=rules.comparison.output.latency,
        dataset=rules.dataset.output.dataset,
    output:
        **page("07_claims"),
        claims=f"{REPORTS}/tables/claims.csv",
    params:
        words=WORDS,
        cells=cells("07_claims"),
    shell:
        RUN


rule speed:
    input:
        source=ancient("notebooks/08_speed.ipynb"),
        library=TRAINING + library("thickness", "report"),
        dataset=rules.dataset.output.dataset,
        complexity=rules.architectures.output.complexity,
    output:
        **page("08_speed"),
        training=f"{REPORTS}/tables/speed_training.csv",
        inference=f"{REPORTS}/tables/speed_inference.csv",
    params:
        cells=cells("08_speed"),
        recipes=fingerprint(*(study.recipe_of(model).digest for model in MODELS)),
    threads: workflow.cores  # it measures time: nothing else may run beside it
    resources:
        gpu_gb=study.gpu_gb_per_run,
    shell:
        "OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 " + COMMAND  # as a training has on a CPU


rule realtime:
    input:
        METRICS,
        source=ancient("notebooks/11_realtime.ipynb"),
        library=SHOWN + library("predict", "evaluate", "export", "realtime"),
        dataset=rules.dataset.output.dataset,
    output:
        **page("11_realtime"),
        table=f"{REPORTS}/tables/realtime.csv",
    params:
        words=WORDS,
        cells=cells("11_realtime"),
    threads: workflow.cores  # it measures time: nothing else may run beside it
    shell:
        COMMAND


rule summary:
    input:
        [page(name)["html"] for name in PAGES],
        METRICS,
        [rules.thickness.output.errors] if THICKNESS in PAGES else [],
        [rules.ablation.output.table2, rules.comparison.output.table3, rules.claims.output.claims] if study.paper else [],
        source=ancient(f"notebooks/{FRONT}.ipynb"),
        comparison=rules.comparison.output.html,
        figure5=rules.segmentations.output.figure5,
        library=SHOWN,
        dataset=rules.dataset.output.dataset,
    output:
        notebook=f"{REPORTS}/notebooks/{FRONT}.ipynb",
        html=f"{REPORTS}/index.html",
    params:
        words=WORDS,
        cells=cells(FRONT),
    shell:
        RUN


rule study:  # every file, so that one that was lost is made again
    default_target: True
    input:
        rules.summary.output,
        [page(name).values() for name in PAGES + RUN_PAGES],
        METRICS,
        rules.dataset.output,
        rules.architectures.output,
        [rules.ablation.output, rules.claims.output] if study.paper else [],
        rules.comparison.output,
        rules.segmentations.output,
        rules.thickness.output if THICKNESS in PAGES else [],
        rules.speed.output if TRAINS else [],
        rules.realtime.output,
