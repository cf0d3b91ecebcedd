"""The claim ledger: each statement of the paper (claims.yaml), the result of this study, and a verdict."""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from rhseg_lib.catalogue import COUNTED, DESCRIBED, FCN, MOBILENET, MODEL_NAMES, SEPARABLE, UNET, XCEPTION
from rhseg_lib.evaluation.compare import is_significant, pair
from rhseg_lib.report.findings import difference_in_words
from rhseg_lib.report.paper_tables import PAPER_ROWS

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
INCONSISTENT, NOT_TESTABLE = "inconsistent in the paper", "not testable with this data"
NAMES = ("FCN", "UNET", "XCEPTION", "MOBILENET", "COUNTED", "SEPARABLE", "DESCRIBED", "LITE", "FAST")  # in claims.yaml
MODELS = dict(zip(NAMES, MODEL_NAMES, strict=True))
RESNET50_MIB = 89.68  # the encoder alone, without a head
COLUMNS = ["section", "statement", "published", "ours", "tolerance", "verdict", "why"]


def ledger(
    complexity: pd.DataFrame,
    separable: pd.DataFrame,
    pooling: pd.DataFrame,
    compared: pd.DataFrame,
    *,
    thickness: pd.DataFrame | None,
    scope: str,
) -> pd.DataFrame:
    """Judge every checkable statement of the paper: one row per claim, with the columns in `COLUMNS`.

    `complexity` is indexed by model: ``parameters``, ``mib`` and ``gmacs`` (notebook 02), ``latency_ms`` with
    ``lower_quartile`` and ``upper_quartile`` (notebook 05). `separable` has one row per layer: the ``predicted`` ratio
    of Eq. 1 and the ``counted`` one. `pooling` has the ``change`` of Eq. 2's global means between two inputs, for EMA's
    1x1 and 3x3 branch. `compared` is a table of `compare.compare_models`, `thickness` one of
    `thickness_runs.compare_errors`, or None. `scope` names the image size and initial weights for which verdicts on
    accuracy hold; it is empty for a demonstration, which judges no accuracy.
    """
    values, holds = counted(complexity, separable, pooling)
    claims = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    for claim in claims:
        if "above" in claim:
            first, second = (MODELS[name] for name in claim["above"])
            claim.update(accuracy(first, second, compared, scope))
        elif "nearer" in claim:
            first, second = (MODELS[name] for name in claim["nearer"])
            claim.update(nearer(first, second, thickness, scope))
        elif "holds" in claim:
            claim["verdict"] = {True: REPRODUCED, False: NOT_REPRODUCED, None: NOT_TESTABLE}[holds[claim["holds"]]]
        claim.update({key: claim[key].format(**values) for key in ("ours", "why")})
        if "verdict" not in claim:  # a number of the paper, to the decimals that it prints
            agrees = claim["ours"].split()[0] == claim["published"]
            claim.update(tolerance="±0.005", verdict=REPRODUCED if agrees else NOT_REPRODUCED)
    return pd.DataFrame(claims, columns=COLUMNS)


def counted(
    complexity: pd.DataFrame, separable: pd.DataFrame, pooling: pd.DataFrame
) -> tuple[dict[str, object], dict[str, bool | None]]:
    """Compute the values and conditions that claims.yaml names; a condition is None if it cannot be decided."""
    mib, parameters, gmacs, latency = (complexity[name] for name in ("mib", "parameters", "gmacs", "latency_ms"))
    ours = PAPER_ROWS[COUNTED]
    deviation = (separable["counted"] - separable["predicted"]).abs().max()
    saved = 100 * (1 - complexity.loc[SEPARABLE] / complexity.loc[MOBILENET])
    timed = complexity.loc[[SEPARABLE, MOBILENET], ["lower_quartile", "upper_quartile"]]
    (fast, faster), (slow, slower) = timed.to_numpy()
    both_timed, described = timed.notna().all(axis=None), latency[DESCRIBED]
    apart = faster < slow or fast > slower  # False where one is NaN

    removed = 100 * (1 - parameters / parameters[XCEPTION])
    by_name = complexity.assign(millions=parameters / 1e6, removed=removed).rename(
        index=dict(zip(MODEL_NAMES, NAMES, strict=True))
    )
    values = {
        **by_name.to_dict(),
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
        "saved_time": f"−{saved['latency_ms']:.0f} % of {latency[MOBILENET]:.1f} ms" if both_timed else "not timed",
        "time_described": "not timed" if np.isnan(described) else f"{described:.0f} ms per image as described",
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
    return values, holds


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


def nearer(first: str, second: str, thickness: pd.DataFrame | None, scope: str) -> dict[str, str]:
    """Judge whether the first model's mean error of slag thickness is smaller, where the difference is significant."""
    row = None if thickness is None else pair(thickness, first, second)
    claim = {"published": "one figure", "ours": "no comparison", "tolerance": "sign, 95 %, Holm"}
    claim |= {"verdict": NOT_TESTABLE}
    if row is None or np.isnan(row["difference"]):
        return claim | {"why": "A model is missing. The paper judges by eye on a few chosen scenes and gives no value."}
    claim["ours"] = f"{row['difference']:+.1f} mm"
    if not np.isnan(row["low"]):
        claim["ours"] += f" [{row['low']:+.1f}, {row['high']:+.1f}]"
    measured = f"mean error of slag thickness on {row['units']} scenes that both read with every seed"
    if not scope:
        return claim | {"why": "Accuracies are not judged in a demonstration."}
    if not is_significant(row):
        return claim | {"why": f"{scope}, the difference is not significant ({measured})."}
    smaller = row["difference"] < 0
    claim["verdict"] = REPRODUCED if smaller else NOT_REPRODUCED
    return claim | {"why": f"{scope}: the error is {'smaller' if smaller else 'larger'} ({measured})."}
