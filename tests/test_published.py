"""The ledger: verdicts follow from the figures, in both directions."""

import numpy as np
import pandas as pd
import pytest

from rhseg_lib import published
from rhseg_lib.metrics import Comparison
from rhseg_lib.published import COUNTED, FCN, MOBILENET, PAPER_ROWS, TABLE2, TABLE3, UNET

COMPLEXITY = pd.DataFrame(
    {
        "parameters": [32_947_779, 24_891_267, 54_708_931, 5_813_523, 5_829_683, 3_856_083, 3_872_243, 2_730_403],
        "gmacs": [138.3, 225.2, 82.8, 26.2, 26.4, 24.2, 24.4, 5.6],
        "latency_ms": 10.0,
        "lower_quartile": 9.0,
        "upper_quartile": 11.0,
    },
    index=list(published.LABELS),
).assign(mib=lambda table: table["parameters"] * 4 / 2**20)
SEPARABLE = pd.DataFrame({"predicted": [0.25], "counted": [0.25]})
POOLING = pd.DataFrame({"branch": ["1×1", "3×3"], "change": [1e-8, 0.3]})


def judge(**changes) -> pd.DataFrame:
    """The ledger of the true counts, with some arguments replaced, indexed by statement."""
    arguments = {"complexity": COMPLEXITY, "separable": SEPARABLE, "pooling": POOLING, "comparisons": {}}
    arguments |= {"decisive": True} | changes
    return published.ledger(**arguments).set_index("statement")


def test_every_claim_has_a_known_verdict_and_a_reason() -> None:
    ledger = judge()
    known = {published.REPRODUCED, published.NOT_REPRODUCED, published.INCONSISTENT, published.NOT_TESTABLE}
    assert set(ledger["verdict"]) == known
    assert ledger["why"].str.len().min() > 10
    assert ledger.index.is_unique


@pytest.mark.parametrize(
    ("quartiles", "verdict"),
    [
        ((4.0, 5.0, 6.0), published.REPRODUCED),
        ((8.0, 8.5, 9.5), published.NOT_TESTABLE),  # not apart from 9 to 11
        ((12.0, 13.0, 14.0), published.NOT_REPRODUCED),
        ((np.nan, np.nan, np.nan), published.NOT_TESTABLE),
    ],
)
def test_faster_is_judged_where_timings_lie_apart(quartiles, verdict) -> None:
    timed = COMPLEXITY.copy()
    timed.loc[published.SEPARABLE, ["lower_quartile", "latency_ms", "upper_quartile"]] = quartiles
    assert judge(complexity=timed).loc["A separable ASPP makes the model faster", "verdict"] == verdict


def test_a_wrong_count_is_not_reproduced() -> None:
    statement = "DeepLabv3+ · MobileNetV2: “Params/M” 22.18"
    assert judge().loc[statement, "verdict"] == published.REPRODUCED
    wrong = COMPLEXITY.assign(mib=COMPLEXITY["mib"] + 0.01)
    assert judge(complexity=wrong).loc[statement, "verdict"] == published.NOT_REPRODUCED


def test_a_wrong_ratio_refutes_equation_1() -> None:
    statement = "A separable convolution costs 1/N + 1/D_K² of a standard one"
    assert judge().loc[statement, "verdict"] == published.REPRODUCED
    assert judge(separable=SEPARABLE * 1.1).loc[statement, "verdict"] == published.REPRODUCED  # both moved alike
    off = SEPARABLE.assign(counted=0.3)
    assert judge(separable=off).loc[statement, "verdict"] == published.NOT_REPRODUCED


@pytest.mark.parametrize(
    ("found", "decisive", "verdict"),
    [
        (Comparison(0.03, 0.01, 0.05, 0.001), True, published.REPRODUCED),
        (Comparison(-0.03, -0.05, -0.01, 0.001), True, published.NOT_REPRODUCED),
        (Comparison(0.03, -0.01, 0.05, 0.2), True, published.NOT_TESTABLE),
        (Comparison(0.03, 0.01, 0.05, 0.001), False, published.NOT_TESTABLE),
        (Comparison(0.03, 0.01, 0.05, 0.06), True, published.NOT_TESTABLE),
        (None, True, published.NOT_TESTABLE),
    ],
)
def test_an_accuracy_claim_follows_its_interval(found: Comparison | None, decisive: bool, verdict: str) -> None:
    comparisons = {} if found is None else {(COUNTED, MOBILENET): found}
    ledger = judge(comparisons=comparisons, decisive=decisive)
    assert ledger.loc["With EMA, MobileNetV2’s mIoU is higher", "verdict"] == verdict


def test_the_published_tables_agree_where_they_overlap() -> None:
    shared = TABLE2.keys() & TABLE3.keys()
    for model in shared:
        assert (TABLE2[model].miou, TABLE2[model].mpa) == (TABLE3[model].miou, TABLE3[model].mpa)
    assert set(PAPER_ROWS) == {*TABLE2, FCN, UNET}
