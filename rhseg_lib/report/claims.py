"""The claim ledger: each statement of the paper (claims.yaml), the result of this study, and a verdict."""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from rhseg_lib import catalogue
from rhseg_lib.catalogue import COUNTED, DESCRIBED, FCN, MOBILENET, SEPARABLE, UNET, XCEPTION
from rhseg_lib.evaluation.compare import is_significant, pair
from rhseg_lib.report.findings import difference_in_words
from rhseg_lib.report.paper import PAPER_ROWS

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
INCONSISTENT, NOT_TESTABLE = "inconsistent in the paper", "not testable with this data"
MODELS = {  # by their names in claims.yaml
    name: getattr(catalogue, name)
    for name in ("FCN", "UNET", "XCEPTION", "MOBILENET", "COUNTED", "SEPARABLE", "DESCRIBED", "LITE")
}
RESNET50_MIB = 89.68  # the encoder alone, without a head
COLUMNS = ["section", "statement", "published", "ours", "tolerance", "verdict", "why"]


def ledger(
    complexity: pd.DataFrame, separable: pd.DataFrame, pooling: pd.DataFrame, compared: pd.DataFrame, *, scope: str
) -> pd.DataFrame:
    """Judge every checkable statement of the paper.

    Parameters
    ----------
    complexity : DataFrame
        Indexed by model: ``parameters``, ``mib`` and ``gmacs``, from notebook 02; ``latency_ms`` with
        ``lower_quartile`` and ``upper_quartile``, from notebook 05.
    separable : DataFrame
        Eq. 1 against counted operations: ``predicted`` and ``counted`` ratios, one row per layer.
    pooling : DataFrame
        ``change`` of Eq. 2's global means between two inputs, for EMA's 1x1 and 3x3 branch.
    compared : DataFrame
        Differences between models, from `compare.compare_models`.
    scope : str
        Image size and initial weights of the training, for which verdicts on accuracy hold. Empty for a demonstration,
        which judges no accuracy.

    Returns
    -------
    DataFrame
        One row per claim: section, statement, published, ours, tolerance, verdict, why.
    """
    values, holds = counted(complexity, separable, pooling)
    rows = []
    for claim in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")):
        judged = {}
        if "above" in claim:
            first, second = (MODELS[name] for name in claim["above"])
            judged = accuracy(first, second, compared, scope)
        elif "equals" in claim:
            agrees = abs(float(claim["published"]) - float(claim["equals"].format(**values))) <= 0.005
            judged = {"tolerance": "±0.005", "verdict": REPRODUCED if agrees else NOT_REPRODUCED}
        elif "holds" in claim:
            verdicts = {True: REPRODUCED, False: NOT_REPRODUCED, None: NOT_TESTABLE}
            judged = {"verdict": verdicts[holds[claim["holds"]]]}
        row = claim | judged
        rows.append(row | {key: row[key].format(**values) for key in ("ours", "why")})
    return pd.DataFrame(rows, columns=COLUMNS)


def counted(
    complexity: pd.DataFrame, separable: pd.DataFrame, pooling: pd.DataFrame
) -> tuple[dict[str, object], dict[str, bool | None]]:
    """Compute the values and conditions that claims.yaml names; a condition is None if it cannot be decided."""
    mib, parameters, gmacs, latency = (complexity[name] for name in ("mib", "parameters", "gmacs", "latency_ms"))
    ours = PAPER_ROWS[COUNTED]
    deviation = (separable["counted"] - separable["predicted"]).abs().max()
    saved = {name: 100 * (1 - complexity[name][SEPARABLE] / complexity[name][MOBILENET]) for name in complexity}
    timed = complexity.loc[[SEPARABLE, MOBILENET], ["lower_quartile", "upper_quartile"]]
    (fast, faster), (slow, slower) = timed.to_numpy()
    apart = faster < slow or fast > slower  # False where one is NaN

    def by_name(column: pd.Series) -> dict[str, float]:
        return {name: column[model] for name, model in MODELS.items()}

    values = {
        "mib": by_name(mib),
        "parameters": by_name(parameters),
        "millions": by_name(parameters / 1e6),
        "gmacs": by_name(gmacs),
        "removed": by_name(100 * (1 - parameters / parameters[XCEPTION])),
        "mib_saved": mib[COUNTED] - mib[DESCRIBED],
        "fcn_times": mib[FCN] / mib[COUNTED],
        "resnet_times": RESNET50_MIB / mib[COUNTED],
        "share_of_unet": 100 * parameters[COUNTED] / parameters[UNET],
        "above_xception": ours.miou - PAPER_ROWS[XCEPTION].miou,
        "above_fcn": ours.miou - PAPER_ROWS[FCN].miou,
        "ema_miou": ours.miou - PAPER_ROWS[MOBILENET].miou,
        "ema_mpa": ours.mpa - PAPER_ROWS[MOBILENET].mpa,
        "deviation": deviation,
        "layers": len(separable),
        "saved_gmacs": saved["gmacs"],
        "saved_mib": saved["mib"],
        "saved_time": "not timed"
        if timed.isna().any(axis=None)
        else f"−{saved['latency_ms']:.0f} % of {latency[MOBILENET]:.1f} ms",
        "time_described": "not timed"
        if np.isnan(latency[DESCRIBED])
        else f"{latency[DESCRIBED]:.0f} ms per image as described",
        "change_1x1": pooling["change"].iloc[0],
        "change_3x3": pooling["change"].iloc[1],
    }
    holds = {
        "similar size": mib[FCN] / mib[COUNTED] <= 1.5,
        "equation 1": deviation < 1e-9,
        "less computation": saved["gmacs"] > 0,
        "less memory": saved["mib"] > 0,
        "faster": saved["latency_ms"] > 0 if apart else None,
        "lighter": gmacs[MOBILENET] < gmacs[XCEPTION],
        "both branches": pooling["change"].min() > 1e-3,
    }
    return values, {name: None if state is None else bool(state) for name, state in holds.items()}


def accuracy(first: str, second: str, compared: pd.DataFrame, scope: str) -> dict[str, str]:
    """Judge the sign of a difference between two models where it is significant, for the scope of this study."""
    published = PAPER_ROWS[first].miou - PAPER_ROWS[second].miou
    row = pair(compared, first, second)
    claim = {"published": f"{published:+.2f}", "tolerance": "sign, 95 %, Holm", "verdict": NOT_TESTABLE}
    if row is None:
        why = "A model is missing, or the two have different training recipes."
        return claim | {"ours": "no comparison", "tolerance": "sign", "why": why}
    claim["ours"] = f"{row['difference']:+.2f}"
    if not np.isnan(row["low"]):
        claim["ours"] += f" [{row['low']:+.2f}, {row['high']:+.2f}]"
    if not scope:
        claim["why"] = "Accuracies are not judged in a demonstration."
    elif not is_significant(row):
        claim["why"] = f"{scope}, the difference {difference_in_words(row)}."
    else:
        same = (row["difference"] > 0) == (published > 0)
        direction = "the same direction as" if same else "the opposite direction of"
        claim["verdict"] = REPRODUCED if same else NOT_REPRODUCED
        claim["why"] = f"{scope}: {direction} the paper’s. The difference {difference_in_words(row)}."
    return claim
