"""Every table of the report: built from files, shown as HTML, saved as CSV."""

import html
import re
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML

from rhseg_lib import catalogue
from rhseg_lib.catalogue import COUNTED, DESCRIBED, FAST, LABELS, LITE, MOBILENET, PROPOSED, SEPARABLE, SHORT, XCEPTION
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation import statistics
from rhseg_lib.evaluation.compare import by_unit, generalisation, pair, points
from rhseg_lib.evaluation.metrics import Scores
from rhseg_lib.evaluation.runs import Run
from rhseg_lib.files import write_atomically
from rhseg_lib.profile import Profile, Recipe, load_profile
from rhseg_lib.report.paper_tables import TABLE1, Row

EXACT = ["annotator one and exact mask", "annotator two and exact mask"]  # rows of baselines.csv
NOT_REPORTED = "not\N{NO-BREAK SPACE}reported"
SCALING = "rate scaled by batch / 16"
EFFECTS = {  # what is added -> (with, without)
    "EMA, standard ASPP": (COUNTED, MOBILENET),
    "EMA, separable ASPP": (DESCRIBED, SEPARABLE),
    "separable ASPP, no attention": (SEPARABLE, MOBILENET),
    "separable ASPP, with EMA": (DESCRIBED, COUNTED),
    "separable decoder (lite)": (LITE, DESCRIBED),
    "96 channels for 256, no EMA (fast)": (FAST, LITE),
    "MobileNetV2 in place of Xception": (MOBILENET, XCEPTION),
}


def show(frame: pd.DataFrame, path: Path | None = None, *, caption: str, digits: int = 2) -> HTML:
    """Show a table with escaped text, numbers with so many decimals; save it as CSV if `path` is given."""
    if path is not None:
        keep(frame, path)
    shown = frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()
    align = ["" if pd.api.types.is_numeric_dtype(kind) else ' class="text"' for kind in shown.dtypes]
    head = "".join(f"<th{side}>{html.escape(str(name))}</th>" for name, side in zip(shown, align, strict=True))
    body = ""
    for row in shown.itertuples(index=False, name=None):
        cells = (
            f"<td{side}>{_cell(name, value, digits)}</td>" for side, name, value in zip(align, shown, row, strict=True)
        )
        body += f"<tr>{''.join(cells)}</tr>"
    return HTML(
        f'<div class="scroll"><table><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def sentences(lines: list[str]) -> HTML:
    """Show sentences as paragraphs with escaped text: they may contain the user's file names."""
    return HTML("".join(f"<p>{html.escape(line)}</p>" for line in lines))


def keep(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, with its index unless that only numbers the rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, frame.to_csv(index=not isinstance(frame.index, pd.RangeIndex)).encode())


def _cell(name: str, value: object, digits: int) -> str:
    """A value as text in HTML: numbers grouped by thousands, NaN as a dash, a page as a link to it."""
    if isinstance(value, float):
        return "–" if np.isnan(value) else f"{value:,.{digits}f}"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    text = html.escape(str(value))
    return f'<a href="{text}">open</a>' if name == "page" else text


def read(profile: Profile, name: str, *, index: str | None = None) -> pd.DataFrame:
    """Read a table that an earlier notebook saved; raises a StudyError if that notebook has not run yet."""
    path = profile.tables / f"{name}.csv"
    if not path.exists():
        raise StudyError(f"the table '{name}' is missing", where=path, fix=f"make study PROFILE={profile.name}")
    return pd.read_csv(path, index_col=index)


def counts(dataset: dict) -> pd.DataFrame:
    """Images (or tiles), originals and the percentage of each class in the subsets of a VOC tree."""
    subsets = [name for name in dataset["counts"] if name != "trainval"]
    pixels = pd.DataFrame.from_dict(dataset["class_pixels"], orient="index").loc[subsets]
    unit = "tiles" if dataset.get("tile") else "images"
    table = pd.DataFrame({unit: dataset["counts"], "originals": dataset["originals"]})
    shares = 100 * pixels.div(pixels.sum(axis=1), axis=0)
    return table.loc[subsets].join(shares.add_suffix(", % of pixels")).rename_axis("subset")


def left_out(dataset: dict) -> HTML:
    """The files that a build left out because of annotation errors."""
    frame = pd.DataFrame(dataset["skipped"], columns=["file", "shape", "what", "fix"], dtype=object)
    caption = f"{frame['file'].nunique()} file(s) left out because of annotation errors"
    return show(frame.fillna(""), caption=caption)


def of_scores(results: dict[str, Scores], class_names: tuple[str, ...]) -> pd.DataFrame:
    """One row per method: mIoU, mPA and each class's IoU in per cent."""
    rows = {name: 100 * np.array([s.miou, s.mpa, *s.iou]) for name, s in results.items()}
    columns = ["miou", "mpa", *(f"IoU {name}" for name in class_names)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("method")


def recipe(used: Recipe, *, exceptions: dict[str, dict] | None = None) -> pd.DataFrame:
    """The recipe beside the paper's Table 1; `exceptions` maps a model to its differing values."""
    ours = {
        "Epoch": used.epochs,
        "Batch_size": used.batch_size,
        "Init_lr": f"{used.rates[0]:g}",
        "Min_lr": f"{used.rates[1]:g}",
        "Optimizer_type": used.optimizer,
        "Momentum": f"{used.momentum:g}" if used.optimizer == "sgd" else "–",
        "Weight_decay": f"{used.weight_decay:g}",
        SCALING: "yes" if used.scale_rate_by_batch else "no, as printed",
        "warm-up": f"{used.warmup_epochs:g} epoch(s), linear",
        "schedule": "cosine from Init_lr to Min_lr",
        "loss": "cross-entropy" + (f" + {used.dice_weight:g} Dice" if used.dice_weight else ""),
        "images per epoch": used.epoch_images or "each training image once",
        "batch norm": "recomputed after training" if used.recompute_batchnorm else "running averages",
        "precision": used.precision,
        "start": used.start_from
        or ("ImageNet encoder" if used.pretrained else "random (Kaiming), the same rule for all"),
    }
    if used.flip:
        ours["flip"] = "each image mirrored with probability 1/2 whenever it is drawn"
    if used.validation_fraction:
        kept = "; the best epoch is kept" if used.keep_best_epoch else ""
        ours["held out"] = f"{100 * used.validation_fraction:g} % of the training originals{kept}"
    paper = TABLE1 | {SCALING: f"{NOT_REPORTED}; its likely source scales"}
    rows = [(key, str(paper.get(key, NOT_REPORTED)), str(value)) for key, value in ours.items()]
    for model, changes in (exceptions or {}).items():
        text = ", ".join(f"{name} {value}" for name, value in changes.items())
        rows.append((f"exception: {SHORT[model]}", "–", text.replace("_", " ")))
    return pd.DataFrame(rows, columns=["key", "paper", "here"])


def metrics(runs: dict[str, Run]) -> pd.DataFrame:
    """Scores of one run in per cent, per class and mean, for each subset; the interval is for these weights."""
    blocks = []
    for subset, run in runs.items():
        scores, names = run.metrics[subset], run.metrics["class_names"]
        low, high = points(statistics.mean_of(by_unit(run.matrices, run.units)[None], these_weights=True))
        columns = {
            "subset": subset,
            "class": [*names, "mean"],
            "IoU": 100 * np.array([*scores["iou"], scores["miou"]], float),
            "PA": 100 * np.array([*scores["pa"], scores["mpa"]], float),
            "95 % interval, these weights": [*[""] * len(names), bracket(low, high) or "too few images"],
        }
        blocks.append(pd.DataFrame(columns))
    return pd.concat(blocks, ignore_index=True)


def provenance(run: dict) -> pd.DataFrame:
    """Device, versions and data set of a run."""
    keys = ("device", "threads", "python", "torch", "lightning", "segmentation_models_pytorch", "commit", "lock")
    rows = {key.replace("_", " "): run[key] for key in keys}
    rows |= {"data set": run["dataset_hash"][:12], "training": f"{run['train_seconds']:.0f} s"}
    return pd.DataFrame(rows.items(), columns=["item", "value"])


def beside_paper(rows: dict[str, Row], summary: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """A table of the paper beside this study's scores; the last row is the model that the text describes."""
    models = [*rows, PROPOSED]
    paper, ours = pd.DataFrame(rows.values(), index=list(rows)).reindex(models), summary.reindex(models)
    trained = ours["seeds"].notna()
    table = {
        "model": paper["label"].fillna("“Ours” as the text describes it (separable ASPP)"),
        "paper mIoU": paper["miou"],
        "our mIoU": ours["miou"],
        "95 % interval": [interval(row) if trained[model] else "not trained" for model, row in ours.iterrows()],
        "SD over seeds": ours["seed_deviation"],
        "paper mPA": paper["mpa"],
        "our mPA": ours["mpa"],
        "paper “Params/M”": paper["params"],
        "our MiB": sizes.loc[models, "mib"],
        "seeds": ours["seeds"].fillna(0).astype(int),
    }
    return pd.DataFrame(table, index=models).reset_index(drop=True)


def bracket(low: float, high: float, sign: str = "") -> str:
    """Format an interval in brackets; empty if there is none."""
    return "" if np.isnan(low) else f"[{low:{sign}.1f},\N{NO-BREAK SPACE}{high:{sign}.1f}]"


def interval(row: pd.Series | dict, sign: str = "") -> str:
    """Format the interval of the model, else that of these weights, labelled so; else “too few images”."""
    if text := bracket(row["low"], row["high"], sign):
        return text
    fallback = bracket(row["weights_low"], row["weights_high"], sign)
    return f"{fallback} these weights" if fallback else "too few images"


def ablation_grid(summary: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """Backbone × ASPP × attention × decoder of the DeepLabv3+ models with mIoU, interval, size and work."""
    models = [m for m, e in catalogue.CATALOGUE.items() if e.architecture == "deeplabv3plus" and m in summary.index]
    entries, scores, costs = [catalogue.CATALOGUE[model] for model in models], summary.loc[models], sizes.loc[models]
    columns = {
        "backbone": [entry.backbone for entry in entries],
        "ASPP": ["separable" if entry.separable_aspp else "standard" for entry in entries],
        "attention": ["EMA" if entry.attention else "–" for entry in entries],
        "decoder": ["separable" if entry.separable_decoder else "standard" for entry in entries],
        "channels": [entry.width for entry in entries],
        "mIoU": scores["miou"],
        "95 % interval": [interval(row) for _, row in scores.iterrows()],
        "SD over seeds": scores["seed_deviation"],
        "MiB": costs["mib"],
        "GMAC": costs["gmacs"],
        "seeds": scores["seeds"].astype(int),
    }
    return pd.DataFrame(columns, index=models).reset_index(drop=True)


def ablation_effects(compared: pd.DataFrame) -> pd.DataFrame:
    """Effect of each change on mIoU, in points: the rows of `compare.compare_models` listed in `EFFECTS`."""
    pairs = {name: pair(compared, with_it, without) for name, (with_it, without) in EFFECTS.items()}
    rows = [{"change": name, **row} for name, row in pairs.items() if row is not None]
    return pd.DataFrame(rows, columns=["change", *compared.columns.drop(["first", "second"])])


def of_pairs(compared: pd.DataFrame) -> pd.DataFrame:
    """Differences for display: points of mIoU, interval, p before and after Holm, smallest detectable difference."""
    table = {name: compared[name].replace(SHORT) for name in ("change", "first", "second") if name in compared}
    table |= {name: compared[name] for name in ("seeds", "units", "difference")}
    table["95 % interval"] = [interval(row, "+") for row in compared.to_dict("records")]
    for column, name in {"p_value": "p", "p_holm": "p (Holm)"}.items():
        table[name] = ["–" if np.isnan(p) else f"{p:.4f}" for p in compared[column]]
    table["smallest detectable (Holm)"] = [
        "–" if np.isnan(alone) else f"{alone:.1f} ({first:.1f})"
        for alone, first in zip(compared["detectable"], compared["detectable_holm"], strict=True)
    ]
    return pd.DataFrame(table)


def generalisation_table(profile: Profile) -> pd.DataFrame:
    """Test set against holdout, for this profile and, if it has run, for the one with the split as described."""
    measured = generalisation(profile).astype(float)  # an empty table has no types
    columns = {
        "split": profile.data.split.replace("_", " "),
        "model": [LABELS[model] for model in measured.index],
        "seeds": measured["seeds"].astype(int),
        "test mIoU": measured["test"],
        "holdout mIoU": measured["holdout"],
        "test − holdout": measured["difference"],
        "95 % interval": [interval(row, "+") for _, row in measured.iterrows()],
    }
    table = pd.DataFrame(columns, index=measured.index).reset_index(drop=True)
    if profile.leaky is not None:
        path = load_profile(profile.leaky, root=profile.root).tables / "generalisation.csv"  # of its Comparison page
        if path.exists():
            table = pd.concat([table, pd.read_csv(path)], ignore_index=True)
    return table


def learning_rates(profile: Profile) -> pd.DataFrame:
    """Trials by model and rate, and the rate chosen; empty without trials (`benchmarks/learning_rates.py`)."""
    path = profile.tables / "learning_rates.csv"
    if not path.exists():
        return pd.DataFrame()
    table = pd.read_csv(path).pivot(index="model", columns="learning_rate", values="miou")
    table = table.loc[[model for model in profile.models if model in table.index]]
    complete = table.notna().all(axis=1)
    chosen = [f"{profile.recipe_of(model).learning_rate:g}" if complete[model] else "not yet" for model in table.index]
    return table.rename(index=LABELS, columns="{:g}".format).assign(chosen=chosen)


def claims(ledger: pd.DataFrame) -> HTML:
    """The claim ledger as one block per statement, readable on a phone."""
    blocks = []
    for row in ledger.to_dict("records"):
        text = {name: html.escape(str(value)) for name, value in row.items()}
        style = re.split(" in | with ", row["verdict"])[0].replace(" ", "-")  # a class of style.css
        blocks.append(
            f'<li class="{style}-edge"><span class="where">{text["section"]}</span>'
            f'<span class="verdict {style}">{text["verdict"]}</span><strong>{text["statement"]}</strong>'
            f'<span class="values">paper: {text["published"]} · here: {text["ours"]} '
            f'· tolerance: {text["tolerance"]}</span><p class="why">{text["why"]}</p></li>'
        )
    return HTML(f'<ol class="claims">{"".join(blocks)}</ol>')


def models(summary: pd.DataFrame, runs: list[Run], profile: Profile, *, folder: str = "") -> pd.DataFrame:
    """Every trained model with its scores and a link to its training page in `folder`.

    Training times are given where one kind of device trained all: those of different devices do not compare.
    """
    shown = summary.reset_index()
    one_device = len({run.metrics["device"] for run in runs}) == 1
    first = {run.model: run.seed for run in reversed(runs)}  # the lowest seed of each model
    return pd.DataFrame(
        {
            "model": [LABELS[m] for m in shown["model"]],
            "mIoU": shown["miou"],
            "95 % interval": [interval(row) for _, row in shown.iterrows()],
            "mPA": shown["mpa"],
            **{f"IoU {name.replace('_', ' ')}": shown[f"IoU {name}"] for name in profile.data.class_names},
            "seeds": shown["seeds"].astype(int),
            **({"SD over seeds": shown["seed_deviation"]} if (shown["seeds"] > 1).any() else {}),
            "training images seen": shown["model"].map({run.model: run.metrics["images_seen"] for run in runs}),
            **({"train min": shown["train_minutes"]} if one_device else {}),
            "page": [f"{folder}03_train_{m}_seed{first[m]}.html" for m in shown["model"]],
        }
    )
