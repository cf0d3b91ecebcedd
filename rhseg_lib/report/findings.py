"""What the tables say, in sentences."""

from __future__ import annotations

import numpy as np
import pandas as pd
from IPython.display import Markdown

from rhseg_lib.catalogue import COUNTED, FCN, LABELS, PROPOSED, SHORT, UNET, XCEPTION
from rhseg_lib.evaluation import statistics
from rhseg_lib.evaluation.compare import compare_models, pair, stacked, tells
from rhseg_lib.evaluation.runs import Run
from rhseg_lib.profile import Profile
from rhseg_lib.report.tables import EFFECTS, interval, promises

RIVALS = {  # the paper's model, as it was counted, against the others of Table 3
    "“Ours” (as counted) against Xception": (COUNTED, XCEPTION),
    "“Ours” (as counted) against FCN": (COUNTED, FCN),
    "“Ours” (as counted) against U-Net": (COUNTED, UNET),
}


def difference_in_words(row: dict) -> str:
    """What the runs say of a difference between two models, as the end of a sentence."""
    shown = f"{row['difference']:+.1f} points of mIoU"
    if row["units"] < statistics.FEWEST_UNITS:
        return f"cannot be judged ({shown}; {row['units']} images or groups show the rarest class)"
    if np.isnan(row["p_holm"]):
        return f"cannot be judged from one seed ({shown} with these weights; another seed gives other weights)"
    known = f"{shown}, 95 % interval {row['low']:+.1f} to {row['high']:+.1f}, adjusted {p_in_words(row['p_holm'])}"
    if tells(row):
        return f"is significant: {known}"
    count = "more than 50" if np.isnan(row["needed"]) else f"about {row['needed']:.0f}"
    return f"is not significant: {known}; to find one of this size would take {count} seeds of each model"


def p_in_words(p_value: float) -> str:
    """A p-value to as many digits as tell it from the level of significance."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.4f}" if 0.045 < p_value < 0.055 else f"p = {p_value:.3f}"


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


def speed_in_words(training: pd.DataFrame, device: str, peak: float) -> Markdown:
    """What the switches bring, model by model."""
    last = training.groupby(level="model", sort=False).tail(1)
    lines = [
        f"- {LABELS[model]}: **{row['times_plain']:.2f} times** the plain loop ({row['samples_per_second']:,.1f}/s)"
        for (model, _), row in last.iterrows()
    ]
    text = f"{device}; it multiplies large matrices at {peak / 1e12:,.2f} TFLOP/s. With all switches:"
    return Markdown("\n".join([text, "", *lines]))


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
