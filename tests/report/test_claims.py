"""The ledger: verdicts follow from the numbers, in both directions."""

import numpy as np
import pandas as pd
import pytest

from rhseg_lib import catalogue
from rhseg_lib.catalogue import COUNTED, FCN, MOBILENET, UNET
from rhseg_lib.report import claims
from rhseg_lib.report.paper_tables import PAPER_ROWS, TABLE2, TABLE3

COMPLEXITY = pd.DataFrame(
    {
        "parameters": [
            32_947_779,
            24_891_267,
            54_708_931,
            5_813_523,
            5_829_683,
            3_856_083,
            3_872_243,
            2_730_403,
            2_049_123,
        ],
        "gmacs": [138.3, 225.2, 82.8, 26.2, 26.4, 24.2, 24.4, 5.6, 3.0],
        "latency_ms": 10.0,
        "lower_quartile": 9.0,
        "upper_quartile": 11.0,
    },
    index=list(catalogue.LABELS),
).assign(mib=lambda table: table["parameters"] * 4 / 2**20)
SEPARABLE = pd.DataFrame({"predicted": [0.25], "counted": [0.25]})
POOLING = pd.DataFrame({"branch": ["1×1", "3×3"], "change": [1e-8, 0.3]})
NONE = pd.DataFrame(columns=["first", "second"])


def judge(**changes) -> pd.DataFrame:
    """The ledger of the true counts, with some arguments replaced, indexed by statement."""
    arguments = {"complexity": COMPLEXITY, "separable": SEPARABLE, "pooling": POOLING, "compared": NONE}
    arguments |= {"thickness": None, "scope": "At 64×64, from random weights"} | changes
    return claims.ledger(**arguments).set_index("statement")


def test_every_claim_has_a_known_verdict_and_a_reason() -> None:
    ledger = judge()
    known = {claims.REPRODUCED, claims.NOT_REPRODUCED, claims.INCONSISTENT, claims.NOT_TESTABLE}
    assert set(ledger["verdict"]) == known
    assert ledger["why"].str.len().min() > 10
    assert ledger.index.is_unique


@pytest.mark.parametrize(
    ("quartiles", "verdict"),
    [
        ((4.0, 5.0, 6.0), claims.REPRODUCED),
        ((8.0, 8.5, 9.5), claims.NOT_TESTABLE),  # not apart from 9 to 11
        ((12.0, 13.0, 14.0), claims.NOT_REPRODUCED),
        ((np.nan, np.nan, np.nan), claims.NOT_TESTABLE),
    ],
)
def test_faster_is_judged_where_timings_lie_apart(quartiles, verdict) -> None:
    timed = COMPLEXITY.copy()
    timed.loc[catalogue.SEPARABLE, ["lower_quartile", "latency_ms", "upper_quartile"]] = quartiles
    assert judge(complexity=timed).loc["A separable ASPP makes the model faster", "verdict"] == verdict


def test_a_wrong_count_is_not_reproduced() -> None:
    statement = "DeepLabv3+ · MobileNetV2: “Params/M” 22.18"
    assert judge().loc[statement, "verdict"] == claims.REPRODUCED
    wrong = COMPLEXITY.assign(mib=COMPLEXITY["mib"] + 0.01)
    assert judge(complexity=wrong).loc[statement, "verdict"] == claims.NOT_REPRODUCED


def test_a_wrong_ratio_refutes_equation_1() -> None:
    statement = "A separable convolution costs 1/N + 1/D_K² of a standard one"
    assert judge().loc[statement, "verdict"] == claims.REPRODUCED
    assert judge(separable=SEPARABLE * 1.1).loc[statement, "verdict"] == claims.REPRODUCED  # both changed alike
    off = SEPARABLE.assign(counted=0.3)
    assert judge(separable=off).loc[statement, "verdict"] == claims.NOT_REPRODUCED


def compared_pair(first: str, second: str, **changes) -> pd.DataFrame:
    """A table of one pair, as `compare.compare_models` returns it."""
    row = {"first": first, "second": second, "seeds": "3, 5", "units": 50, "difference": 3.0, "low": 1.0, "high": 5.0}
    row |= {"weights_low": 2.0, "weights_high": 4.0, "p_value": 0.001, "p_holm": 0.01, "needed": 3.0}
    return pd.DataFrame([row | changes])


@pytest.mark.parametrize(
    ("changes", "verdict", "why"),
    [
        ({}, claims.REPRODUCED, "At 64×64, from random weights: the same direction"),
        ({"difference": -3.0, "low": -5.0, "high": -1.0}, claims.NOT_REPRODUCED, "the opposite direction"),
        ({"p_holm": 0.06}, claims.NOT_TESTABLE, "is not significant: +3.0 points"),  # interval beyond zero, p is not
        ({"p_holm": 0.2, "needed": 9.0}, claims.NOT_TESTABLE, "would take about 9 seeds"),
        ({"p_holm": 0.2, "needed": np.nan}, claims.NOT_TESTABLE, "would take more than 50 seeds"),
        ({"p_holm": np.nan, "low": np.nan, "high": np.nan}, claims.NOT_TESTABLE, "one seed"),
        ({"p_holm": np.nan, "low": np.nan, "high": np.nan, "units": 5}, claims.NOT_TESTABLE, "5 images or groups"),
    ],
)
def test_an_accuracy_claim_follows_the_adjusted_p(changes: dict, verdict: str, why: str) -> None:
    claim = judge(compared=compared_pair(COUNTED, MOBILENET, **changes)).loc["With EMA, MobileNetV2’s mIoU is higher"]
    assert claim["verdict"] == verdict
    assert why in claim["why"]


def test_an_accuracy_claim_may_be_compared_in_reverse_order() -> None:
    reversed_pair = compared_pair(MOBILENET, COUNTED, difference=-3.0, low=-5.0, high=-1.0, seeds="5, 3")
    claim = judge(compared=reversed_pair).loc["With EMA, MobileNetV2’s mIoU is higher"]
    assert claim["verdict"] == claims.REPRODUCED
    assert claim["ours"] == "+3.00 [+1.00, +5.00]"


@pytest.mark.parametrize("changes", [{"scope": ""}, {"compared": NONE}])
def test_a_demonstration_and_missing_models_judge_no_accuracy(changes: dict) -> None:
    ledger = judge(**{"compared": compared_pair(COUNTED, MOBILENET), **changes})
    assert ledger.loc["With EMA, MobileNetV2’s mIoU is higher", "verdict"] == claims.NOT_TESTABLE


def test_the_published_tables_agree_where_they_overlap() -> None:
    shared = TABLE2.keys() & TABLE3.keys()
    for model in shared:
        assert (TABLE2[model].miou, TABLE2[model].mpa) == (TABLE3[model].miou, TABLE3[model].mpa)
    assert set(PAPER_ROWS) == {*TABLE2, FCN, UNET}


def errors_of(difference: float, p_holm: float) -> pd.DataFrame:
    """One row of `thickness_runs.compare_errors`: the paper's model against FCN, in reverse order."""
    row = {"first": FCN, "second": COUNTED, "seeds": "3, 3", "units": 200, "difference": -difference}
    row |= {"low": -difference - 2, "high": -difference + 2, "p_holm": p_holm}
    return pd.DataFrame([row])


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({"thickness": errors_of(-6, 0.01)}, claims.REPRODUCED, "the error is smaller"),
        ({"thickness": errors_of(6, 0.01)}, claims.NOT_REPRODUCED, "the error is larger"),
        ({"thickness": errors_of(-6, 0.2)}, claims.NOT_TESTABLE, "not significant"),
        ({"thickness": errors_of(-6, 0.01), "scope": ""}, claims.NOT_TESTABLE, "demonstration"),
        ({"thickness": None}, claims.NOT_TESTABLE, "A model is missing"),
        ({"thickness": errors_of(-6, np.nan)}, claims.NOT_TESTABLE, "not significant"),
    ],
)
def test_the_thickness_claim_follows_the_error_in_mm(changes, verdict, reason):
    row = judge(**changes).filter(like="more accurate than FCN in the slag", axis=0).iloc[0]
    assert row["verdict"] == verdict
    assert reason in row["why"]
