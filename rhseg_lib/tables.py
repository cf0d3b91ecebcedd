"""Every table of the pages: how it is built from files, how it is shown, how it is said in words.

What needs the architectures imports them when it is called: most pages only read results, and start in half the time.
"""

from __future__ import annotations

import html
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, Markdown
from torch import nn

from rhseg_lib import StudyError, statistics
from rhseg_lib.compare import (
    by_unit,
    compare_models,
    difference_in_words,
    generalisation,
    pair,
    points,
    stacked,
    tells,
)
from rhseg_lib.evaluation import Run
from rhseg_lib.files import write_atomically
from rhseg_lib.metrics import Scores
from rhseg_lib.profile import PROPOSED, Profile, Recipe, load_profile
from rhseg_lib.published import (
    COUNTED,
    DESCRIBED,
    FCN,
    LABELS,
    MOBILENET,
    PAPER_ROWS,
    SEPARABLE,
    SHORT,
    TABLE1,
    UNET,
    XCEPTION,
    Row,
)

LITE = "deeplabv3plus_mobilenetv2_lite"
EFFECTS = {  # what is added -> (with, without)
    "EMA, standard ASPP": (COUNTED, MOBILENET),
    "EMA, separable ASPP": (DESCRIBED, SEPARABLE),
    "separable ASPP, no attention": (SEPARABLE, MOBILENET),
    "separable ASPP, with EMA": (DESCRIBED, COUNTED),
    "separable decoder (lite)": (LITE, DESCRIBED),
    "MobileNetV2 in place of Xception": (MOBILENET, XCEPTION),
}
RIVALS = {  # the paper's model, as it was counted, against the others of Table 3
    "“Ours” (as counted) against Xception": (COUNTED, XCEPTION),
    "“Ours” (as counted) against FCN": (COUNTED, FCN),
    "“Ours” (as counted) against U-Net": (COUNTED, UNET),
}
EXACT = ["annotator one and exact mask", "annotator two and exact mask"]  # rows of the baselines
NOT_SAID = "not\N{NO-BREAK SPACE}said"
GRID = {  # model -> backbone, ASPP, attention, decoder
    XCEPTION: ("Xception-65", "standard", "–", "standard"),
    MOBILENET: ("MobileNetV2", "standard", "–", "standard"),
    COUNTED: ("MobileNetV2", "standard", "EMA", "standard"),
    SEPARABLE: ("MobileNetV2", "separable", "–", "standard"),
    DESCRIBED: ("MobileNetV2", "separable", "EMA", "standard"),
    LITE: ("MobileNetV2", "separable", "EMA", "separable"),
}


def show(frame: pd.DataFrame, path: Path | None = None, *, caption: str) -> HTML:
    """Show a table, its text escaped; keep it as CSV where `path` is given."""
    if path is not None:
        keep(frame, path)
    named = not isinstance(frame.index, pd.RangeIndex)
    shown = frame.reset_index() if named else frame
    align = {name: "" if pd.api.types.is_numeric_dtype(shown[name]) else ' class="text"' for name in shown}
    head = "".join(f"<th{align[name]}>{html.escape(str(name))}</th>" for name in shown)
    rows = (
        "".join(f"<td{align[name]}>{_cell(name, value)}</td>" for name, value in zip(shown, row, strict=True))
        for row in shown.itertuples(index=False, name=None)
    )
    body = "".join(f"<tr>{cells}</tr>" for cells in rows)
    return HTML(
        f'<div class="scroll"><table><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def sentences(lines: list[str]) -> HTML:
    """Show sentences as paragraphs, their text escaped: they may hold the user's names."""
    return HTML("".join(f"<p>{html.escape(line)}</p>" for line in lines))


def keep(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, its index too where it names the rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, frame.to_csv(index=not isinstance(frame.index, pd.RangeIndex)).encode())


def _cell(name: str, value: object) -> str:
    if isinstance(value, float):
        return "–" if np.isnan(value) else f"{value:,.2f}"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    text = html.escape(str(value))
    if name == "page":
        return f'<a href="{text}">open</a>'
    return text


def read(study: Profile, name: str, *, index: str | None = None) -> pd.DataFrame:
    """A table that an earlier notebook kept.

    Raises
    ------
    StudyError
        That notebook has not run.
    """
    path = study.tables / f"{name}.csv"
    if not path.exists():
        raise StudyError(f"the table '{name}' is missing", where=path, mend=f"make study PROFILE={study.name}")
    return pd.read_csv(path, index_col=index)


def counts(dataset: dict) -> pd.DataFrame:
    """Images, originals and the share of each class in the parts of a VOC tree."""
    rows = {}
    for part in (part for part in dataset["counts"] if part != "trainval"):
        pixels = dataset["class_pixels"][part]
        total = sum(pixels.values())
        rows[part] = {
            "images": dataset["counts"][part],
            "originals": dataset["originals"][part],
            **{f"{name}, % of pixels": 100 * count / total for name, count in pixels.items()},
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


def left_out(dataset: dict) -> HTML:
    """The files that a build left out for their faults."""
    frame = pd.DataFrame(dataset["skipped"], columns=["file", "shape", "what", "mend"], dtype=object)
    caption = f"{frame['file'].nunique()} file(s) of annotations left out for their faults"
    return show(frame.fillna(""), caption=caption)


def of_scores(results: dict[str, Scores], class_names: tuple[str, ...]) -> pd.DataFrame:
    """One row per method: mIoU, mPA and each class's IoU in per cent."""
    rows = {
        name: {
            "miou": 100 * s.miou,
            "mpa": 100 * s.mpa,
            **{f"IoU {c}": 100 * i for c, i in zip(class_names, s.iou, strict=True)},
        }
        for name, s in results.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def complexity(models: dict[str, nn.Module], side: int) -> pd.DataFrame:
    """Parameters, MiB, GMAC and what the paper prints, one row per model."""
    from rhseg_lib.complexity import count_macs, count_parameters, model_mib

    rows = {
        name: {
            "parameters": count_parameters(model),
            "millions": count_parameters(model) / 1e6,
            "mib": model_mib(model),
            "paper “Params/M”": PAPER_ROWS[name].params if name in PAPER_ROWS else np.nan,
            "gmacs": count_macs(model, side, side) / 1e9,
        }
        for name, model in models.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def stages(frame: pd.DataFrame) -> pd.DataFrame:
    """`complexity.stages` for reading: shapes as text, work in GMAC, shares in per cent."""
    return pd.DataFrame(
        {
            "stage": frame["stage"],
            "output (C × H × W)": [" × ".join(map(str, shape)) for shape in frame["output_shape"]],
            "parameters": frame["parameters"],
            "GMAC": frame["macs"] / 1e9,
            "share of the work, %": 100 * frame["share"],
        }
    )


def separable(layers: list[tuple[int, int, int]], *, side: int = 32) -> pd.DataFrame:
    """Equation 1 for layers (M, N, D_K): the formula's ratio and the counted one."""
    from rhseg_lib.complexity import separable_ratio

    rows = [
        {
            "M": m,
            "N": n,
            "D_K": k,
            "predicted": float(Fraction(1, n) + Fraction(1, k * k)),
            "counted": float(separable_ratio(m, n, k, side)),
        }
        for m, n, k in layers
    ]
    return pd.DataFrame(rows)


@torch.inference_mode()
def ema_pooling(attention: nn.Module, *, side: int) -> pd.DataFrame:
    """How much Equation 2's global means of EMA's two branches change between two unlike inputs."""
    pooled: dict[str, list[torch.Tensor]] = {"norm": [], "conv3x3": []}
    hooks = [
        getattr(attention, name).register_forward_hook(lambda _, __, out, kept=kept: kept.append(out.mean((2, 3))))
        for name, kept in pooled.items()
    ]
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        shape = (1, attention.groups * attention.norm.num_channels, side, side)
        attention.attention(torch.randn(shape, generator=generator))
    for hook in hooks:
        hook.remove()
    change = [float((first - second).abs().max()) for first, second in pooled.values()]
    return pd.DataFrame({"branch": ["1×1, ends in GroupNorm", "3×3"], "change": change})


def recipe(used: Recipe, *, exceptions: dict[str, dict] | None = None) -> pd.DataFrame:
    """What is done beside the paper's Table 1; `exceptions` are the models that differ, and in what."""
    ours = {
        "Epoch": used.epochs,
        "Batch_size": used.batch_size,
        "Init_lr": f"{used.rates[0]:g}",
        "Min_lr": f"{used.rates[1]:g}",
        "Optimizer_type": used.optimizer,
        "Momentum": f"{used.momentum:g}" if used.optimizer == "sgd" else "–",
        "Weight_decay": f"{used.weight_decay:g}",
    }
    rows = [(key, str(TABLE1[key]), str(ours[key])) for key in TABLE1]
    rows += [
        (
            "rate scaled by batch / 16",
            "not\N{NO-BREAK SPACE}said; its likely source does",
            "yes" if used.scale_rate_by_batch else "no, as printed",
        ),
        ("warm-up", NOT_SAID, f"{used.warmup_epochs:g} epochs, linear"),
        ("schedule", NOT_SAID, "cosine from Init_lr to Min_lr"),
        ("loss", NOT_SAID, "cross-entropy" + (f" + {used.dice_weight:g} Dice" if used.dice_weight else "")),
        ("images an epoch", NOT_SAID, str(used.epoch_images or "each training image once")),
        ("batch norm", NOT_SAID, "recomputed after training" if used.recompute_batchnorm else "running averages"),
        ("precision", NOT_SAID, used.precision),
        ("start", NOT_SAID, "ImageNet encoder" if used.pretrained else "random (Kaiming), the same rule for all"),
    ]
    for model, changes in (exceptions or {}).items():
        text = ", ".join(f"{name} {value}" for name, value in changes.items())
        rows.append((f"exception: {SHORT[model]}", "–", text.replace("_", " ")))
    return pd.DataFrame(rows, columns=["key", "paper", "here"])


def metrics(runs: dict[str, Run]) -> pd.DataFrame:
    """Scores of one run in per cent, by class and in the mean, for each part; the interval is of these weights."""
    blocks = []
    for part, run in runs.items():
        found, names = run.metrics[part], [*run.metrics["class_names"], "mean"]
        iou, pa = [*found["iou"], found["miou"]], [*found["pa"], found["mpa"]]
        block = {"part": part, "class": names, "IoU": 100 * np.array(iou, float), "PA": 100 * np.array(pa, float)}
        low, high = points(statistics.mean_of(by_unit(run.matrices, run.units)[None], these_weights=True))
        shown = [*[""] * (len(names) - 1), bracket(low, high) or "too few images"]
        blocks.append(pd.DataFrame(block).assign(**{"95 % interval, these weights": shown}))
    return pd.concat(blocks, ignore_index=True)


def provenance(run: dict) -> pd.DataFrame:
    """Device, versions and data set of a run."""
    keys = ("device", "threads", "python", "torch", "lightning", "segmentation_models_pytorch", "commit", "lock")
    rows = [(key.replace("_", " "), run[key]) for key in keys]
    rows += [("data set", run["dataset_hash"][:12]), ("training", f"{run['train_seconds']:.0f} s")]
    return pd.DataFrame(rows, columns=["what", "value"])


def beside_paper(rows: dict[str, Row], summary: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """A table of the paper with this study's figures beside, and the model the text describes as a last row."""
    lines = []
    for model in [*rows, PROPOSED]:
        printed = rows.get(model)
        trained = summary.loc[model] if model in summary.index else None
        lines.append(
            {
                "model": printed.label if printed else "“Ours” as the text describes it (separable ASPP)",
                "paper mIoU": printed.miou if printed else np.nan,
                "our mIoU": np.nan if trained is None else trained["miou"],
                "95 % interval": "not trained" if trained is None else interval(trained),
                "SD over seeds": np.nan if trained is None else trained["seed_deviation"],
                "paper mPA": printed.mpa if printed else np.nan,
                "our mPA": np.nan if trained is None else trained["mpa"],
                "paper “Params/M”": printed.params if printed else np.nan,
                "our MiB": sizes.loc[model, "mib"],
                "seeds": 0 if trained is None else int(trained["seeds"]),
            }
        )
    return pd.DataFrame(lines)


def bracket(low: float, high: float, sign: str = "") -> str:
    """An interval in brackets; empty where there is none."""
    return "" if np.isnan(low) else f"[{low:{sign}.1f},\N{NO-BREAK SPACE}{high:{sign}.1f}]"


def interval(row: pd.Series | dict, sign: str = "") -> str:
    """What is known of a figure: the model's interval, else that of these weights, named so."""
    if text := bracket(row["low"], row["high"], sign):
        return text
    given = bracket(row["weights_low"], row["weights_high"], sign)
    return f"{given} these weights" if given else "too few images"


def ablation_grid(summary: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """Backbone × ASPP × attention × decoder with mIoU, interval, size and work."""
    columns = ("backbone", "ASPP", "attention", "decoder")
    rows = [
        {
            **dict(zip(columns, parts, strict=True)),
            "mIoU": summary.loc[model, "miou"],
            "95 % interval": interval(summary.loc[model]),
            "SD over seeds": summary.loc[model, "seed_deviation"],
            "MiB": sizes.loc[model, "mib"],
            "GMAC": sizes.loc[model, "gmacs"],
            "seeds": int(summary.loc[model, "seeds"]),
        }
        for model, parts in GRID.items()
        if model in summary.index
    ]
    return pd.DataFrame(rows)


def ablation_effects(compared: pd.DataFrame) -> pd.DataFrame:
    """What each change does to mIoU, in points: the rows of `evaluation.compare_models` that answer a question."""
    rows = [
        {"change": name, **found}
        for name, (with_it, without) in EFFECTS.items()
        if (found := pair(compared, with_it, without)) is not None
    ]
    columns = ["change", *compared.columns.drop(["first", "second"])]
    return pd.DataFrame(rows, columns=columns)


def of_pairs(compared: pd.DataFrame) -> pd.DataFrame:
    """Differences for reading: points of mIoU, interval, p before and after Holm, what could have been found."""
    shown = compared.copy()
    for name in ("first", "second"):
        if name in shown:
            shown[name] = [LABELS[model] for model in shown[name]]
    shown["95 % interval"] = [interval(row, "+") for row in shown.to_dict("records")]
    for name in ("p_value", "p_holm"):
        shown[name] = ["–" if np.isnan(p) else f"{p:.4f}" for p in shown[name]]
    shown["detectable"] = [
        "–" if np.isnan(alone) else f"{alone:.1f} ({first:.1f})"
        for alone, first in zip(shown["detectable"], shown["detectable_holm"], strict=True)
    ]
    dropped = ["low", "high", "weights_low", "weights_high", "detectable_holm", "needed"]
    names = {"p_value": "p", "p_holm": "p (Holm)", "detectable": "smallest to be found (Holm)"}
    order = [*[c for c in ("change", "first", "second") if c in shown], "seeds", "units", "difference", "95 % interval"]
    return shown.drop(columns=dropped)[[*order, *names]].rename(columns=names)


def promises(study: Profile) -> pd.DataFrame:
    """Test part against holdout, of this profile and of the one that splits its data as described, if that has run."""
    rows = [
        {
            "split": study.data.split.replace("_", " "),
            "model": LABELS[model],
            "seeds": int(row["seeds"]),
            "test mIoU": row["test"],
            "holdout mIoU": row["holdout"],
            "test − holdout": row["difference"],
            "95 % interval": interval(row, "+"),
        }
        for model, row in generalisation(study).iterrows()
    ]
    table = pd.DataFrame(rows)
    if study.leaky is not None:
        kept = load_profile(study.leaky, root=study.root).tables / "generalisation.csv"  # its own page 05 wrote it
        if kept.exists():
            table = pd.concat([table, pd.read_csv(kept)], ignore_index=True)
    return table


def learning_rates(study: Profile) -> pd.DataFrame:
    """Trials by model and rate, and the rate chosen; empty where there were none (`benchmarks/learning_rates.py`)."""
    path = study.tables / "learning_rates.csv"
    if not path.exists():
        return pd.DataFrame()
    table = pd.read_csv(path).pivot(index="model", columns="learning_rate", values="miou")
    table = table.loc[[model for model in study.models if model in table.index]]
    chosen = [f"{study.recipe_of(model).learning_rate:g}" for model in table.index]
    table.columns = [f"{rate:g}" for rate in table.columns]
    return table.assign(chosen=chosen).rename(index=LABELS).rename_axis("model")


def separable_shown(ratios: pd.DataFrame) -> pd.DataFrame:
    """`separable` for reading: shares in per cent, and how many times less work that is."""
    percent = {name: [f"{100 * value:.3f} %" for value in ratios[name]] for name in ("predicted", "counted")}
    return ratios.assign(**percent, **{"times less work": 1 / ratios["counted"]})


def claims(ledger: pd.DataFrame) -> HTML:
    """The claim ledger as one block per statement, readable on a phone."""
    blocks = []
    for row in ledger.itertuples():
        text = {name: html.escape(str(value)) for name, value in row._asdict().items()}
        style = "inconsistent" if row.verdict.startswith("inconsistent") else row.verdict.split(" with")[0]
        style = style.replace(" ", "-")
        blocks.append(
            f'<li class="{style}-edge"><span class="where">{text["section"]}</span>'
            f'<span class="verdict {style}">{text["verdict"]}</span><strong>{text["statement"]}</strong>'
            f'<span class="values">paper: {text["published"]} · here: {text["ours"]} '
            f'· tolerance: {text["tolerance"]}</span><p class="why">{text["why"]}</p></li>'
        )
    return HTML(f'<ol class="claims">{"".join(blocks)}</ol>')


def effects_in_words(effects: pd.DataFrame, runs: list[Run], study: Profile) -> Markdown:
    """One sentence for each change, and what they are worth."""
    lines = [f"- **{row['change']}**: the effect {difference_in_words(row)}." for row in effects.to_dict("records")]
    if missing := [name for name in EFFECTS if name not in set(effects["change"])]:
        lines.append(f"- Not compared, as a model is missing or followed another recipe: {'; '.join(missing)}.")
    return Markdown("\n".join([*lines, "", _worth(runs, study)]))


def _worth(runs: list[Run], study: Profile) -> str:
    """What the figures are worth: how many seeds and independent images, how equal the training."""
    of = stacked(runs)
    seeds = sorted({len(matrices) for matrices in of.values()})
    units = statistics.units_showing(next(iter(of.values())))
    counted = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    text = f"Seeds of each model: {counted}; independent images that show the rarest class: {units}."
    if seeds[0] == 1:
        text += (
            " **One seed cannot tell which model is better**: intervals marked “these weights” count the images alone, "
            "and another seed moves a model too."
        )
    else:
        text += " Intervals and tests count both images and seeds; p is adjusted for all pairs of models (Holm)."
    if units < statistics.FEW_UNITS:
        text = f"**Few independent images, {units}: take every figure and interval here as rough.** {text}"
    if study.kind == "demonstration":
        text = f"Short training on small images: this shows how a question is answered, not the answer. {text}"
    seen = {run.model: run.metrics["images_seen"] for run in runs}
    if fewer := [f"{SHORT[model]} {count:,}" for model, count in seen.items() if count < max(seen.values())]:
        text += (
            f" **The models followed different recipes**: {', '.join(fewer)} training images seen, the others "
            f"{max(seen.values()):,}. Their distance to the others is that of their training as much as their own."
        )
    return text


def models(summary: pd.DataFrame, runs: list[Run], study: Profile, *, folder: str = "") -> pd.DataFrame:
    """Every trained model with its scores and the way to its training page, which stands in `folder`."""
    shown, first = summary.reset_index(), {run.model: run.seed for run in reversed(runs)}
    return pd.DataFrame(
        {
            "model": [LABELS[m] for m in shown["model"]],
            "mIoU": shown["miou"],
            "95 % interval": [interval(row) for _, row in shown.iterrows()],
            "mPA": shown["mpa"],
            **{f"IoU {name.replace('_', ' ')}": shown[f"IoU {name}"] for name in study.data.class_names},
            "seeds": shown["seeds"].astype(int),
            **({"SD over seeds": shown["seed_deviation"]} if (shown["seeds"] > 1).any() else {}),
            "pictures seen": shown["model"].map({run.model: run.metrics["images_seen"] for run in runs}),
            "train min": shown["train_minutes"],
            "page": [f"{folder}03_train_{m}_seed{first[m]}.html" for m in shown["model"]],
        }
    )


def latency(names: list[str], study: Profile) -> pd.DataFrame:
    """Milliseconds of one picture of the study's size, measured now on the CPU: median and quartiles."""
    from rhseg_lib.complexity import latency_ms
    from rhseg_lib.models import build_model

    side, rows = study.data.image_size, {}
    for name in names:
        measured = latency_ms(build_model(name, num_classes=len(study.data.class_names)), side, side, repeats=9)
        rows[name] = {
            "latency_ms": measured.median,
            "lower_quartile": measured.lower_quartile,
            "upper_quartile": measured.upper_quartile,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def speed_in_words(training: pd.DataFrame, device: str, peak: float) -> Markdown:
    """What the switches bring, model by model."""
    last = training.groupby(level="model", sort=False).tail(1)
    lines = [
        f"- {LABELS[model]}: **{row['times_plain']:.2f} times** the plain loop ({row['samples_per_second']:,.1f}/s)"
        for (model, _), row in last.iterrows()
    ]
    text = f"{device}; it multiplies large matrices at {peak / 1e12:,.2f} TFLOP/s. With all switches:"
    return Markdown("\n".join([text, "", *lines]))


def speed(measured: pd.DataFrame) -> pd.DataFrame:
    """A table of speeds for reading: models by their short names, shares in per cent."""
    shown = measured.reset_index()
    shown["model"] = [SHORT[model] for model in shown["model"]]
    if "share_of_peak" in shown:
        shown["share_of_peak"] = [f"{100 * share:.0f} %" for share in shown["share_of_peak"]]
    return shown.rename(columns=lambda name: "TFLOP/s" if name == "tflops" else name.replace("_", " "))


def comparison_in_words(summary: pd.DataFrame, compared: pd.DataFrame, runs: list[Run], study: Profile) -> Markdown:
    """Which model leads, which differences are significant, and how small a difference could have been found."""
    best = summary["miou"].idxmax()
    images = len(runs[0].names)
    text = (
        f"The highest mIoU is that of **{LABELS[best]}**, {summary.loc[best, 'miou']:.1f} % "
        f"{interval(summary.loc[best])} on {images} images."
    )
    tested = compared[compared["p_holm"].notna()]
    if len(tested):
        others = tested[(tested["first"] == best) | (tested["second"] == best)]
        if close := sum(not tells(row) for row in others.to_dict("records")):
            text += f" It does not differ significantly from {close} of the {len(others)} others."
        significant = sum(tells(row) for row in tested.to_dict("records"))
        text += (
            f" Of {len(tested)} pairs, {significant} differ significantly. With these seeds and images about four of "
            f"five true differences of {tested['detectable'].median():.1f} points are found if one pair is asked "
            f"about, of {tested['detectable_holm'].median():.1f} points if all pairs are (medians); the paper ranks "
            "models 0.41 points apart, with one run each and no interval."
        )
    return Markdown(f"{text}\n\n{_worth(runs, study)}")


def scope(study: Profile) -> str:
    """What a verdict on an accuracy holds for; empty for a demonstration, which judges none."""
    start = "ImageNet" if study.recipe.pretrained else "random"
    side = study.data.image_size
    return f"At {side}×{side}, from {start} weights" if study.kind == "result" else ""


def answers(compared: pd.DataFrame) -> list[str]:
    """A sentence for each question that the paper raises and two of the models answer."""
    return [
        f"- **{name}**: the difference {difference_in_words(found)}."
        for name, (first, second) in {**EFFECTS, **RIVALS}.items()
        if (found := pair(compared, first, second)) is not None
    ]


def leakage_in_words(promised: pd.DataFrame) -> list[str]:
    """What the split as the paper describes it adds to a test score, where it has been measured."""
    leaky = promised[promised["split"] == "as described"] if len(promised) else promised
    return [
        f"- **Leaky split**: {row['model']} scores {row['test mIoU']:.1f} % on test images of which it saw copies, "
        f"{row['holdout mIoU']:.1f} % on fresh ones: {row['test − holdout']:+.1f} points {row['95 % interval']}."
        for row in leaky.to_dict("records")
    ]


def findings(
    summary: pd.DataFrame, baselines: pd.DataFrame, ledger: pd.DataFrame, runs: list[Run], study: Profile
) -> Markdown:
    """The front page's answers, each from the tables."""
    floor = baselines["miou"].filter(like="pixel classifier").max()
    verdicts = ledger["verdict"].value_counts()
    judged = f"; accuracies {scope(study).lower()}" if scope(study) else "; no accuracy, as this is a demonstration"
    lines = [
        "- **The paper's “Params/M” are mebibytes of float32 weights, not millions of parameters.** Four of its models "
        "agree to two decimals that way; FCN's 25.86 cannot be in that unit.",
        "- **The model whose size is printed is not the one described.** 22.24 is row 2 plus EMA, with the standard "
        "ASPP; with the separable ASPP of the text it is a third smaller.",
        f"- Of {len(ledger)} checked statements, {verdicts.get('not reproduced', 0)} are not reproduced, "
        f"{verdicts.get('inconsistent in the paper', 0)} are inconsistent in the paper, "
        f"{verdicts.get('not testable with this data', 0)} cannot be decided, and "
        f"{verdicts.get('reproduced', 0)} are reproduced (sizes, work and arithmetic exactly{judged}).",
    ]
    if PROPOSED in summary.index:
        row = summary.loc[PROPOSED]
        found = (
            f"- The model as the text describes it reaches **{row['miou']:.1f} % mIoU** {interval(row)} on "
            f"{len(runs[0].names)} images; the better of two classifiers that see one pixel at a time "
            f"reaches {floor:.1f} %{', **which lies in that interval**' if row['low'] <= floor <= row['high'] else ''}."
        )
        lines.insert(len(lines) if study.data.source == "synthetic" else 0, found)  # one's own images come first
    lines += leakage_in_words(promises(study))
    if study.kind == "result":
        lines += ["", f"**{scope(study)}:**", "", *answers(compare_models(runs))]
    return Markdown("\n".join([*lines, "", _worth(runs, study)]))
