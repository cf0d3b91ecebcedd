"""The claim ledger: each statement of the paper beside what this study finds, and a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from rhseg_lib.catalogue import COUNTED, DESCRIBED, FCN, LITE, MOBILENET, SEPARABLE, UNET, XCEPTION
from rhseg_lib.evaluation.compare import pair, tells
from rhseg_lib.report.findings import difference_in_words
from rhseg_lib.report.paper import TABLE2, TABLE3

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
INCONSISTENT, NOT_TESTABLE = "inconsistent in the paper", "not testable with this data"


@dataclass(frozen=True)
class Claim:
    """A statement of the paper beside this study's finding."""

    section: str
    statement: str
    published: str
    ours: str
    tolerance: str
    verdict: str
    why: str


def ledger(
    complexity: pd.DataFrame,
    separable: pd.DataFrame,
    pooling: pd.DataFrame,
    compared: pd.DataFrame,
    *,
    scope: str,
) -> pd.DataFrame:
    """Judge every checkable statement of the paper.

    Parameters
    ----------
    complexity : DataFrame
        Indexed by model: ``parameters``, ``mib`` and ``gmacs``, as notebook 02 writes it; ``latency_ms`` and its
        ``lower_quartile`` and ``upper_quartile``, as notebook 05 does.
    separable : DataFrame
        Eq. 1 checked by counting: ``predicted`` and ``counted`` ratios, one row per layer.
    pooling : DataFrame
        ``change`` of Eq. 2's global means between two inputs, for EMA's 1x1 and 3x3 branch.
    compared : DataFrame
        Differences between models, as `compare.compare_models` finds them.
    scope : str
        At which size and from which weights the models were trained: what a verdict on an accuracy holds for. Empty:
        a demonstration, which judges none.

    Returns
    -------
    DataFrame
        One row per claim, with the fields of `Claim`.
    """
    claims = [
        *_size_claims(complexity),
        *_arithmetic_claims(),
        *_compute_claims(complexity, separable, pooling),
        *_accuracy_claims(compared, scope),
        *_protocol_claims(),
    ]
    return pd.DataFrame([asdict(claim) for claim in claims])


def _judge(section: str, statement: str, published: float, ours: float, unit: str, why: str) -> Claim:
    """A numeric claim: reproduced when ours agrees to the two decimals that the paper prints."""
    verdict = REPRODUCED if abs(published - ours) <= 0.005 else NOT_REPRODUCED
    return Claim(section, statement, f"{published:.2f}", f"{ours:.2f} {unit}".strip(), "±0.005", verdict, why)


def _size_claims(complexity: pd.DataFrame) -> list[Claim]:
    mib, parameters = complexity["mib"], complexity["parameters"]
    millions = parameters / 1e6
    rows = [
        _judge(
            table,
            f"{row.label}: “Params/M” {row.params:.2f}",
            row.params,
            mib[model],
            "MiB",
            f"{parameters[model]:,} parameters × 4 bytes / 2²⁰.",
        )
        for table, rows in (("Table 2", TABLE2), ("Table 3", {UNET: TABLE3[UNET]}))
        for model, row in rows.items()
    ]
    return [
        *rows,
        Claim(
            "Table 3",
            "FCN (ResNet-50): “Params/M” 25.86",
            "25.86",
            f"{mib[FCN]:.2f} MiB, {millions[FCN]:.2f} million",
            "±0.005",
            INCONSISTENT,
            "ResNet-50 alone is 89.68 MiB, so 25.86 is not in the unit of the other rows; in millions it would need a "
            "lighter head than torchvision’s, which is counted here.",
        ),
        Claim(
            "Tables 2, 3",
            "The column “Params/M” counts millions of parameters",
            "M",
            "MiB of float32",
            "exact",
            INCONSISTENT,
            f"Xception’s model has {millions[XCEPTION]:.2f} million parameters; 208.70 is their size in MiB. "
            "Four models agree in MiB to two decimals, none in millions.",
        ),
        Claim(
            "§2.1, §2.3, abstract",
            "The proposed model’s ASPP is depthwise separable",
            "22.24",
            f"{mib[DESCRIBED]:.2f} MiB",
            "±0.005",
            INCONSISTENT,
            f"The printed size is row 2 plus EMA, with the standard ASPP. A separable one would take "
            f"{mib[COUNTED] - mib[DESCRIBED]:.2f} MiB off: the model that was counted is not the one described.",
        ),
        Claim(
            "§3.3.2",
            "FCN and the proposed model are of similar size",
            "25.86 : 22.24",
            f"{mib[FCN]:.2f} : {mib[COUNTED]:.2f} MiB",
            "factor 1.5",
            REPRODUCED if mib[FCN] / mib[COUNTED] <= 1.5 else NOT_REPRODUCED,
            f"With torchvision’s head FCN is {mib[FCN] / mib[COUNTED]:.1f} times as large; ResNet-50 alone, with no "
            f"head at all, {89.68 / mib[COUNTED]:.1f} times.",
        ),
        _judge(
            "§3.3.1",
            "MobileNetV2 in place of Xception removes 89.37 % of the parameters",
            89.37,
            100 * (1 - parameters[MOBILENET] / parameters[XCEPTION]),
            "%",
            "By counting both models.",
        ),
        Claim(
            "Abstract",
            "The proposed method removes 89.37 % of the parameters",
            "89.37 %",
            f"{100 * (1 - parameters[COUNTED] / parameters[XCEPTION]):.2f} % as counted, "
            f"{100 * (1 - parameters[DESCRIBED] / parameters[XCEPTION]):.2f} % as described",
            "±0.005",
            INCONSISTENT,
            "89.37 % is the backbone swap alone; with EMA, Table 2 gives 1 − 22.24 / 208.70 = 89.34 %.",
        ),
        _judge(
            "§3.3.2",
            "The proposed model has 23.42 % of U-Net’s parameters",
            23.42,
            100 * parameters[COUNTED] / parameters[UNET],
            "%",
            "By counting both models.",
        ),
        Claim(
            "§1",
            "U-Net’s many parameters make it rather large",
            "“rather large”",
            f"{mib[UNET]:.2f} MiB, Xception’s model {mib[XCEPTION]:.2f}",
            "smaller than DeepLabv3+",
            INCONSISTENT,
            "By Table 3 itself the original DeepLabv3+ is more than twice as large.",
        ),
    ]


def _arithmetic_claims() -> list[Claim]:
    ours, xception = TABLE2[COUNTED], TABLE2[XCEPTION]
    plain, fcn, unet = TABLE2[MOBILENET], TABLE3[FCN], TABLE3[UNET]
    tables = "Arithmetic only: the difference of two rows of the paper’s own tables."
    return [
        _judge("Abstract", "mIoU rises by 1.89 over DeepLabv3+", 1.89, ours.miou - xception.miou, "", tables),
        _judge("§3.3.2", "mIoU is 4.82 above FCN", 4.82, ours.miou - fcn.miou, "", tables),
        Claim(
            "§3.3.1",
            "EMA raises mIoU by 1.89 and mPA by 2.52",
            "1.89 and 2.52",
            f"{ours.miou - plain.miou:.2f} and {ours.mpa - plain.mpa:.2f}",
            "±0.005",
            INCONSISTENT,
            "These are the distances to the Xception model; against the same model without EMA, Table 2’s own rows "
            "differ by more.",
        ),
        Claim(
            "§3.3.2",
            "The proposed model strikes the best balance between complexity and accuracy",
            "“best balance”",
            "three of four models undominated",
            "not dominated",
            INCONSISTENT,
            f"By the paper’s own tables U-Net is more accurate ({unet.miou} against {ours.miou} mIoU) and row 2 of "
            "Table 2 smaller: neither is dominated, and no rule for the balance is given.",
        ),
    ]


def _compute_claims(complexity: pd.DataFrame, separable: pd.DataFrame, pooling: pd.DataFrame) -> list[Claim]:
    fixed, moving = pooling["change"]
    gmacs, latency, mib = complexity["gmacs"], complexity["latency_ms"], complexity["mib"]
    worst = (separable["counted"] - separable["predicted"]).abs().max()

    timed = complexity.loc[[SEPARABLE, MOBILENET], ["lower_quartile", "upper_quartile"]]
    (fast, faster), (slow, slower) = timed.to_numpy()
    untimed, apart = timed.isna().any(axis=None), faster < slow or fast > slower

    def falls(figures: pd.Series) -> float:
        return 100 * (1 - figures[SEPARABLE] / figures[MOBILENET])

    return [
        Claim(
            "Eq. 1",
            "A separable convolution costs 1/N + 1/D_K² of a standard one",
            "1/N + 1/D_K²",
            f"largest deviation {worst:.1e}",
            "±1e-9",
            REPRODUCED if worst < 1e-9 else NOT_REPRODUCED,
            f"Multiplications counted in {len(separable)} layers.",
        ),
        Claim(
            "§2.3",
            "D_K is the side of the feature map",
            "D_K",
            "D_F",
            "exact",
            INCONSISTENT,
            "The text gives D_K to both kernel and feature map; Eq. 1 holds with D_F for the map.",
        ),
        Claim(
            "§2.3",
            "A separable ASPP reduces the model’s computation",
            "“significantly”",
            f"−{falls(gmacs):.1f} % of {gmacs[MOBILENET]:.1f} GMAC",
            "fewer",
            REPRODUCED if falls(gmacs) > 0 else NOT_REPRODUCED,
            "Fewer, but four fifths of the work are the decoder’s two 3×3 convolutions, which stay standard. With a "
            f"separable decoder too (lite), {gmacs[LITE]:.1f} GMAC are left.",
        ),
        Claim(
            "§2.3",
            "A separable ASPP reduces the model’s memory",
            "“significantly”",
            f"−{falls(mib):.1f} % of {mib[MOBILENET]:.2f} MiB",
            "less",
            REPRODUCED if falls(mib) > 0 else NOT_REPRODUCED,
            "Parameters, as float32.",
        ),
        Claim(
            "§2.3",
            "A separable ASPP makes the model faster",
            "not measured",
            "not timed" if untimed else f"−{falls(latency):.0f} % of {latency[MOBILENET]:.1f} ms",
            "faster",
            NOT_TESTABLE if untimed or not apart else REPRODUCED if falls(latency) > 0 else NOT_REPRODUCED,
            "One picture of the study’s size, on the CPU that made this page; judged only if the middle halves of the "
            "repeated timings lie apart. The paper gives no time.",
        ),
        Claim(
            "§2.2",
            "MobileNetV2 makes the model lighter than Xception",
            "“lighter”",
            f"{gmacs[MOBILENET]:.1f} against {gmacs[XCEPTION]:.1f} GMAC",
            "fewer",
            REPRODUCED if gmacs[MOBILENET] < gmacs[XCEPTION] else NOT_REPRODUCED,
            "Multiplications at 512×512.",
        ),
        Claim(
            "§2.4",
            "EMA’s global means (Eq. 2) encode the outputs of both branches",
            "both",
            f"change between two inputs: 1×1 branch {fixed:.0e}, 3×3 branch {moving:.2f}",
            "above 0.001",
            REPRODUCED if min(fixed, moving) > 1e-3 else NOT_REPRODUCED,
            "A property of EMA as first published: its 1×1 branch ends in a norm per channel, whose global mean is the "
            "norm’s own bias. The weights it lends to the other branch are learned, but the same for every picture.",
        ),
        Claim(
            "§2.1, §4",
            "The model meets real-time and production requirements",
            "“real-time”",
            "not timed" if np.isnan(latency[DESCRIBED]) else f"{latency[DESCRIBED]:.0f} ms per picture as described",
            "none given",
            NOT_TESTABLE,
            "The paper measures no time and names no requirement. Ours: one picture of the study’s size on a CPU.",
        ),
    ]


def _accuracy_claims(compared: pd.DataFrame, scope: str) -> list[Claim]:
    pairs = [
        ("Table 2", "With EMA, MobileNetV2’s mIoU is higher", COUNTED, MOBILENET, TABLE2),
        ("Tables 2, 3", "The proposed model (as counted) is above DeepLabv3+ with Xception", COUNTED, XCEPTION, TABLE2),
        ("Table 2", "MobileNetV2 is below Xception", MOBILENET, XCEPTION, TABLE2),
        ("Table 3", "The proposed model (as counted) is above FCN", COUNTED, FCN, TABLE3),
        ("Table 3", "The proposed model (as counted) is below U-Net", COUNTED, UNET, TABLE3),
    ]
    return [
        *(
            _accuracy_claim(section, statement, rows[a].miou - rows[b].miou, pair(compared, a, b), scope)
            for section, statement, a, b, rows in pairs
        ),
        Claim(
            "Table 3",
            "The proposed model reaches 90.46 % mIoU and 94.90 % mPA",
            "90.46, 94.90",
            "other pictures",
            "none",
            NOT_TESTABLE,
            "The 500 photographs are private. Values on other pictures cannot confirm or refute them.",
        ),
        Claim(
            "§3.3.2",
            "The proposed model is more accurate than FCN and DeepLabv3+ in the slag’s thickness area (Figure 5)",
            "one figure",
            "IoU of the slag layer: Comparison",
            "none",
            NOT_TESTABLE,
            "Read off a few chosen scenes of the private set; no figure is given for the class.",
        ),
        Claim(
            "§3.3.2",
            "At certain edges the proposed model outperforms U-Net (Figure 5)",
            "one figure",
            "see Segmentations",
            "none",
            NOT_TESTABLE,
            "“Certain edge information” names no measure; the published figure shows a few chosen scenes.",
        ),
    ]


def _accuracy_claim(section: str, statement: str, published: float, found: dict | None, scope: str) -> Claim:
    """A difference between two models: its sign is judged, where it is significant, for the scope of this study."""
    if found is None:
        why = "A model is missing, or the two followed different recipes."
        return Claim(section, statement, f"{published:+.2f}", "no comparison", "sign", NOT_TESTABLE, why)
    ours = f"{found['difference']:+.2f}"
    if not np.isnan(found["low"]):
        ours += f" [{found['low']:+.2f}, {found['high']:+.2f}]"
    if not scope:
        verdict, why = NOT_TESTABLE, "A demonstration judges no accuracy."
    elif not tells(found):
        verdict, why = NOT_TESTABLE, f"{scope}, the difference {difference_in_words(found)}."
    else:
        verdict = REPRODUCED if (found["difference"] > 0) == (published > 0) else NOT_REPRODUCED
        direction = "the same direction as" if verdict == REPRODUCED else "the opposite direction of"
        why = f"{scope}: {direction} the paper’s. The difference {difference_in_words(found)}."
    return Claim(section, statement, f"{published:+.2f}", ours, "sign, 95 %, Holm", verdict, why)


def _protocol_claims() -> list[Claim]:
    return [
        Claim(
            "§3.2",
            "PyTorch 1.7.1 with CUDA 11.3",
            "1.7.1, 11.3",
            "no official binary pairs them",
            "exact",
            INCONSISTENT,
            "PyTorch 1.7.1 was released for CUDA 9.2 to 11.0, builds for 11.3 began with 1.10; 11.3 may name the "
            "driver’s version.",
        ),
        Claim(
            "Table 1",
            "The learning rate starts at 7e-3 and ends at 7e-5",
            "7e-3, 7e-5",
            "1.75e-3, 1.75e-5 if scaled",
            "none",
            NOT_TESTABLE,
            "Table 1 has, value for value, the defaults of a family of open training scripts. These multiply the rates "
            "by batch / 16 and add Nesterov momentum, a quadratic warm-up of 3 epochs, the least rate for the last 15 "
            "and ImageNet weights, frozen for 50 epochs. Whether the paper’s runs did so is not said. Read as printed, "
            "the rates of its 150 epochs sum to 4.5 times that family’s.",
        ),
        Claim(
            "§3.1",
            "Training and test images are separate",
            "9:1",
            "order of steps unclear",
            "none",
            NOT_TESTABLE,
            "Augmentation is described before the split: copies of one photograph may stand on both sides. The numbers "
            "of augmented and of test images are not given, and no repetition of any run is reported.",
        ),
        Claim(
            "§3.1",
            "The images fall into two classes",
            "2",
            "3 with background",
            "exact",
            REPRODUCED,
            "Eq. 3’s k + 1 counts the background. The sizes agree with three outputs, though also with any number from "
            "two to nine.",
        ),
    ]
