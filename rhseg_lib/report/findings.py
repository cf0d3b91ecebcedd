"""Summaries of the tables as sentences."""

from collections import Counter

import numpy as np
import pandas as pd
from IPython.display import Markdown

from rhseg_lib.catalogue import COUNTED, FCN, LABELS, PROPOSED, SHORT, UNET, XCEPTION
from rhseg_lib.evaluation import statistics
from rhseg_lib.evaluation.compare import compare_models, is_significant, pair, stacked
from rhseg_lib.evaluation.runs import Run, parts
from rhseg_lib.evaluation.thickness_runs import most_accurate
from rhseg_lib.profile import Profile
from rhseg_lib.report import tables
from rhseg_lib.report.tables import EFFECTS, generalisation_table, interval

RIVALS = {  # the paper's model, as counted in its tables, against the others of Table 3
    "“Ours” (as counted) against Xception": (COUNTED, XCEPTION),
    "“Ours” (as counted) against FCN": (COUNTED, FCN),
    "“Ours” (as counted) against U-Net": (COUNTED, UNET),
}
FRAME_MS = 1000 / 30  # milliseconds between the frames of a usual camera
LEAST_LIMIT = 0.8  # IoU below which a class is called too thin for the study's size


def difference_in_words(row: dict) -> str:
    """Describe a difference between two models, as the end of a sentence."""
    shown = f"{row['difference']:+.1f} points of mIoU"
    if row["units"] < statistics.FEWEST_UNITS:
        return f"cannot be judged ({shown}; {row['units']} images or groups show the rarest class)"
    if np.isnan(row["p_holm"]):
        return f"cannot be judged from one seed ({shown} with these weights; another seed gives other weights)"
    p_value = row["p_holm"]
    digits = 4 if 0.045 < p_value < 0.055 else 3  # enough to tell it from the significance level
    adjusted = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.{digits}f}"
    result = f"{shown}, 95 % interval {row['low']:+.1f} to {row['high']:+.1f}, adjusted {adjusted}"
    if is_significant(row):
        return f"is significant: {result}"
    count = "more than 50" if np.isnan(row["needed"]) else f"about {row['needed']:.0f}"
    return f"is not significant: {result}; detecting one of this size would take {count} seeds of each model"


def size_limit(dataset: dict) -> list[str]:
    """Sentences on the accuracy lost at the study's image size: every score of the report is measured at that size."""
    of_class, side, tile = dataset["size_limit"], dataset["image_size"], dataset.get("tile")
    scored = f"Scores in this report are of {'tiles' if tile else 'images'} of {side}×{side} pixels"
    scored += f", each a part of {tile}×{tile} pixels of an image." if tile else "."
    lines = [scored]
    if of_class:  # empty if no image shows a class
        listed = ", ".join(f"{name} {limit:.2f}" for name, limit in of_class.items())
        lines[0] += (
            " Even perfect masks at this size, enlarged to the images' own size, reach only these IoUs with the "
            f"annotation: {listed}."
        )
    if low := [name for name, limit in of_class.items() if limit < LEAST_LIMIT]:
        fix = "a smaller tile" if tile else "a larger image_size, or cut your own images into tiles (`tile`)"
        lines.append(f"Warning: {side} pixels are too few for {', '.join(low)}: take {fix}.")
    return lines


def own_results(summary: pd.DataFrame, baselines: pd.DataFrame, runs: list[Run], profile: Profile) -> list[str]:
    """Sentences on how well the classes of one's own images are found."""
    best = summary["miou"].idxmax()
    row = summary.loc[best]
    classes = {name: row[f"IoU {name}"] for name in profile.data.classes if not np.isnan(row[f"IoU {name}"])}
    each = ", ".join(f"{name} {iou:.1f} %" for name, iou in sorted(classes.items(), key=lambda item: -item[1]))
    baseline = baselines["miou"].filter(like="pixel classifier").max()
    same = "the same" if parts(profile)[-1] == "test" else "the test"
    low = row["weights_low"] if np.isnan(row["low"]) else row["low"]
    verdict = (
        "the network is clearly better."
        if low > baseline
        else "the network is not clearly better. More images, more epochs or a larger image_size may help."
    )
    score = f"{row['miou']:.1f} % mIoU {interval(row)}"
    if len(summary) > 1:
        score += f", the highest of {len(summary)} models"
    return [
        f"{LABELS[best]} reaches {score}, on {len(runs[0].names)} {profile.data.unit} that it has not seen.",
        f"IoU of each class: {each}. Background counts in the mIoU: {row['IoU background']:.1f} %.",
        f"Classified pixel by pixel, by colour and place, {same} images reach {baseline:.1f} %: {verdict}",
    ]


def effects_summary(effects: pd.DataFrame, runs: list[Run], profile: Profile) -> Markdown:
    """One sentence per change, and the limits of the evidence."""
    lines = [f"- **{row['change']}**: the effect {difference_in_words(row)}." for row in effects.to_dict("records")]
    if missing := [name for name in EFFECTS if name not in set(effects["change"])]:
        lines.append(f"- Not compared, as a model is missing or has a different training recipe: {'; '.join(missing)}.")
    return Markdown("\n".join([*lines, "", limits(runs, profile)]))


def limits(runs: list[Run], profile: Profile) -> str:
    """Limits of the evidence: number of seeds and independent images, differences in training."""
    matrices = stacked(runs)
    seeds = sorted({len(of_model) for of_model in matrices.values()})
    units = statistics.units_showing(next(iter(matrices.values())))
    lines = []
    if profile.kind == "demonstration":
        lines.append("Short training on small images: this demonstrates the method, not the result.")
    if units < statistics.FEW_UNITS:
        lines.append(f"**Few independent images, {units}: every score and interval here is a rough estimate.**")
    number = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    lines.append(f"Seeds of each model: {number}; independent images that show the rarest class: {units}.")
    if seeds[0] == 1:
        lines.append(
            "**One seed cannot show which model is better**: intervals marked “these weights” cover the images alone, "
            "and another seed changes the scores too."
        )
    else:
        lines.append("Intervals and tests cover both images and seeds; p is adjusted for all pairs of models (Holm).")
    seen = {run.model: run.metrics["images_seen"] for run in runs}
    if fewer := [f"{SHORT[model]} {count:,}" for model, count in seen.items() if count < max(seen.values())]:
        lines.append(
            f"**The models have different training recipes**: {', '.join(fewer)} training images seen, the others "
            f"{max(seen.values()):,}. Their differences from the others reflect the training as much as the model."
        )
    return " ".join([*lines, trained_on(runs)])


def trained_on(runs: list[Run]) -> str:
    """The devices and PyTorch versions of the runs, and with several, which models each trained."""
    models: dict[str, list[str]] = {}
    for run in runs:
        device = f"{run.metrics['device']} (PyTorch {run.metrics['torch']})"
        if SHORT[run.model] not in models.setdefault(device, []):
            models[device].append(SHORT[run.model])
    if len(models) == 1:
        return f"Trained on {next(iter(models))}."
    each = [f"{device}: {', '.join(names)}" for device, names in models.items()]
    return f"Trained on {'; on '.join(each)}."


def speed_summary(training: pd.DataFrame, device: str, peak: float) -> Markdown:
    """Training speed with all options, model by model."""
    last = training.groupby(level="model", sort=False).tail(1)
    lines = [
        f"- {LABELS[model]}: **{row['times_plain']:.2f} times** the plain loop ({row['samples_per_second']:,.1f}/s)"
        for (model, _), row in last.iterrows()
    ]
    text = f"{device}; large matrix products reach {peak / 1e12:,.2f} TFLOP/s. With all options:"
    return Markdown("\n".join([text, "", *lines]))


def realtime_summary(measured: pd.DataFrame) -> list[str]:
    """Which models keep up with a camera of 30 frames/s, by image size, with the fastest way of each."""
    if measured.empty:
        return []
    lines = []
    for side, rows in measured.groupby("side"):
        fastest = rows.sort_values("wall").drop_duplicates("model")
        listed = "; ".join(
            f"{LABELS[row['model']]} {row['wall']:.0f} ms ({row['way']}, {row['threads']} thread(s)"
            + (")" if np.isnan(row["miou"]) else f", mIoU {row['miou']:.1f} %)")
            for row in fastest.to_dict("records")
        )
        count = (fastest["wall"] <= FRAME_MS).sum()
        lines.append(f"At {side}×{side} px, {count} of {len(fastest)} models segment 30 frames/s here: {listed}.")
    if untrained := sorted(set(measured.loc[measured["miou"].isna(), "side"])):
        sizes = ", ".join(f"{side}×{side}" for side in untrained)
        lines.append(f"At {sizes} px, only the times are valid: no model was trained at that size.")
    lines.append("Reading images and writing masks are not included.")
    return lines


def comparison_summary(summary: pd.DataFrame, compared: pd.DataFrame, runs: list[Run], profile: Profile) -> Markdown:
    """Best model, significant differences, and the smallest detectable difference."""
    best = summary["miou"].idxmax()
    lines = [
        f"**{LABELS[best]}** has the highest mIoU, {summary.loc[best, 'miou']:.1f} % "
        f"{interval(summary.loc[best])} on {len(runs[0].names)} {profile.data.unit}."
    ]
    tested = compared[compared["p_holm"].notna()]
    if len(tested):
        significant = np.array([is_significant(row) for row in tested.to_dict("records")])
        with_best = (tested[["first", "second"]] == best).any(axis=1)
        if close := (with_best & ~significant).sum():
            lines.append(f"It does not differ significantly from {close} of the {with_best.sum()} others.")
        of_paper = "; the paper ranks models 0.41 points apart, with one run each and no interval"
        lines.append(
            f"Of {len(tested)} pairs, {significant.sum()} differ significantly. With these seeds and images, the "
            f"smallest difference detectable with 80 % power is {tested['detectable'].median():.1f} points for a "
            f"single pair, and {tested['detectable_holm'].median():.1f} points if all pairs are tested (medians)"
            f"{of_paper if profile.paper else ''}."
        )
    return Markdown(f"{' '.join(lines)}\n\n{limits(runs, profile)}")


def scope(profile: Profile) -> str:
    """Image size and start for which verdicts on accuracy hold; empty for a demonstration, which judges none."""
    if profile.kind == "demonstration":
        return ""
    side, recipe = profile.data.image_size, profile.recipe
    initial = "earlier" if recipe.start_from else "ImageNet" if recipe.pretrained else "random"
    return f"At {side}×{side}, from {initial} weights"


def leakage_summary(generalisation: pd.DataFrame) -> list[str]:
    """How much the split described in the paper adds to a test score, where measured."""
    return [
        f"- **Leaky split**: {row['model']} scores {row['test mIoU']:.1f} % on test images of which it saw copies, "
        f"{row['holdout mIoU']:.1f} % on the holdout: {row['test − holdout']:+.1f} points {row['95 % interval']}."
        for row in generalisation.to_dict("records")
        if row["split"] == "as described"
    ]


def thickness_link(profile: Profile) -> str:
    """A line of the front page, for profiles with tube and slag."""
    page = "10_thickness" if profile.data.source == "synthetic" else "10_own_thickness"
    return f"- [Thickness](html/{page}.html): the slag's thickness on each tube, with an interval, and its error."


def thickness_result(profile: Profile) -> list[str]:
    """How well slag thickness is measured, from the table of the Thickness page; nothing if there is none."""
    if not (profile.tables / "thickness.csv").exists():
        return []
    table = tables.read(profile, "thickness", index="masks")
    exact = f"from exact masks, slag thickness is measured with a mean error of {table['mean_error'].iloc[0]:.0f} mm"
    best = most_accurate(table[table.index.isin(LABELS)])
    if np.isnan(table["mean_error"].iloc[0]) or best is None:
        return []
    row = table.loc[best]
    interval = f", with a 90 % interval of ±{row['half']:.0f} mm (median)" if not np.isnan(row["half"]) else ""
    return [
        f"- **Thickness**: {exact}; from the masks of {LABELS[best]} by {row['mean_error']:.0f} mm "
        f"({row['percent']:.0f} %){interval}, on the {100 * row['read']:.0f} % of the tubes that it reads."
    ]


def findings(
    summary: pd.DataFrame, baselines: pd.DataFrame, ledger: pd.DataFrame, runs: list[Run], profile: Profile
) -> Markdown:
    """Main results for the Summary page, each from the tables."""
    baseline = baselines["miou"].filter(like="pixel classifier").max()
    verdicts = Counter(ledger["verdict"])
    compared, valid_for = compare_models(runs), scope(profile)
    if not valid_for:
        judged = "no accuracy, as this is a demonstration"
    elif compared["p_holm"].notna().any():
        judged = f"accuracies a{valid_for[1:]}"
    else:
        judged = "no accuracy yet, because there are too few seeds or images"
    lines = [
        "- **The paper's “Params/M” are mebibytes of float32 weights, not millions of parameters.** Four of its models "
        "agree to two decimals that way; FCN's 25.86 cannot be in that unit.",
        "- **The model whose size is printed is not the one described.** 22.24 is row 2 plus EMA, with the standard "
        "ASPP; with the separable ASPP of the text it is a third smaller.",
        f"- Of {len(ledger)} checked statements, {verdicts['not reproduced']} are not reproduced, "
        f"{verdicts['inconsistent in the paper']} are inconsistent in the paper, "
        f"{verdicts['not testable with this data']} cannot be decided, and "
        f"{verdicts['reproduced']} are reproduced (sizes, work and arithmetic exactly; {judged}).",
    ]
    model = PROPOSED if PROPOSED in summary.index else summary["miou"].idxmax()
    row = summary.loc[model]
    inside = row["low"] <= baseline <= row["high"] and parts(profile)[-1] == "test"  # scored on the same images
    name = "The model as the text describes it" if model == PROPOSED else LABELS[model]
    result = (
        f"- {name} reaches **{row['miou']:.1f} % mIoU** {interval(row)} on {len(runs[0].names)} {profile.data.unit}; "
        f"the better of the two pixel-classifier baselines reaches {baseline:.1f} % on the test set"
        f"{', **inside that interval**' if inside else ''}."
    )
    lines.insert(0 if profile.kind == "result" else len(lines), result)
    if profile.data.source == "synthetic":
        lines += thickness_result(profile)
    lines += leakage_summary(generalisation_table(profile))
    if valid_for:
        pairs = {name: pair(compared, *models) for name, models in {**EFFECTS, **RIVALS}.items()}
        lines += ["", f"**{valid_for}:**", ""]
        lines += [f"- **{name}**: the difference {difference_in_words(row)}." for name, row in pairs.items() if row]
    return Markdown("\n".join([*lines, "", limits(runs, profile)]))
