"""Tables and sentences of the report, overlays, and pixel-classifier features."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from rhseg_lib import catalogue
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation import baselines
from rhseg_lib.evaluation.runs import Run
from rhseg_lib.profile import Profile
from rhseg_lib.report import claims, figures, findings, image_figures, overlays, tables


def test_text_in_a_table_is_escaped() -> None:
    shown = tables.show(pd.DataFrame({"label": ["<script>alert(1)</script>"], "<b>": [1.5]}), caption="a < b").data
    assert "<script>" not in shown
    assert "<b>" not in shown
    assert "&lt;script&gt;" in shown
    assert "1.50" in shown


def test_text_in_sentences_is_escaped() -> None:
    assert tables.sentences(["<b>$x$</b>", "two"]).data == "<p>&lt;b&gt;$x$&lt;/b&gt;</p><p>two</p>"


def test_an_image_title_may_be_any_name() -> None:
    sheet = image_figures.contact_sheet([np.zeros((4, 4, 3), np.uint8)], columns=1, titles=["$\\frac{ $"])
    sheet.canvas.draw()
    plt.close(sheet)


def test_a_figure_says_that_its_boxes_are_characters(monkeypatch) -> None:
    said = []
    monkeypatch.setattr(figures.Figure, "text", lambda self, *given, **how: said.append(given[2]))
    for title in ("slag", "\U0001d11e clef"):  # in no sans-serif font
        figure, axes = figures.subplots((2, 2))
        axes[0].set_title(title)
        assert figures.data_uri(figure).startswith("data:image/webp")
        assert said == ([] if title == "slag" else [figures.BOXES])


@pytest.mark.filterwarnings("error")
def test_a_histogram_has_every_class_that_is_there() -> None:
    """Also one whose name begins with an underscore; not one without pixels."""
    images, masks = np.zeros((1, 4, 4, 3), np.uint8), np.array([[[0, 0, 2, 255]] * 4], np.uint8)
    (legend,) = figures.colour_histograms(images, masks, ("background", "tube", "_drip")).legends
    assert [text.get_text() for text in legend.get_texts()] == ["background", " drip"]
    plt.close("all")


def test_a_missing_value_is_a_dash_and_a_large_count_is_grouped() -> None:
    shown = tables.show(pd.DataFrame({"a": [np.nan], "b": [5_813_523]}), caption="").data
    assert ">–<" in shown
    assert ">5,813,523<" in shown


def test_a_table_that_no_notebook_saved_is_a_clear_error(profile: Profile) -> None:
    with pytest.raises(StudyError, match="the table 'absent' is missing"):
        tables.read(profile, "absent")


def test_pixel_features_hold_colour_then_place() -> None:
    image = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(1, 2, 2, 3)
    rows = baselines.pixel_features(image, place=True)
    assert rows.tolist() == [[0, 1, 2, 0, 0], [3, 4, 5, 0.5, 0], [6, 7, 8, 0, 0.5], [9, 10, 11, 0.5, 0.5]]
    assert baselines.pixel_features(image, place=False).shape == (4, 3)


def test_blend_paints_classes_and_not_background() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    painted = overlays.blend(image, np.array([[0, 1, 255]], np.uint8), opacity=1)
    assert painted[0, 0].tolist() == [100, 100, 100]
    assert painted[0, 1].tolist() == [0x0E, 0xA5, 0xE9]
    assert painted[0, 2].tolist() == [100, 100, 100]


def test_error_map_marks_wrong_pixels_and_keeps_ignored_ones_white() -> None:
    errors = overlays.error_map(np.array([[0, 1, 255]], np.uint8), np.array([[0, 2, 1]], np.uint8))
    assert errors[0, 1].tolist() == [0xD1, 0x24, 0x2F]
    assert errors[0, 2].tolist() == [255, 255, 255]
    assert errors[0, 0].tolist() == [0xE6, 0xE9, 0xED]


def test_the_effect_of_leakage_is_read_from_the_leaky_profiles_tables(profile, tmp_path, monkeypatch):
    columns = ["seeds", "test", "holdout", "difference", "low", "high", "weights_low", "weights_high"]
    measured = pd.DataFrame([[3, 80.0, 79.0, 1.0, -1.0, 3.0, 0.0, 2.0]], index=["unet_vgg16"], columns=columns)
    monkeypatch.setattr(tables, "generalisation", lambda _: measured)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/leaky.yaml").write_text((profile.root / "profiles/tiny.yaml").read_text())
    own = profile.model_copy(update={"leaky": "leaky", "root": tmp_path})
    assert tables.generalisation_table(own)["split"].tolist() == ["grouped"]
    leaky = tables.generalisation_table(own).assign(split="as described")
    tables.keep(leaky, tmp_path / "reports/leaky/tables/generalisation.csv")
    table = tables.generalisation_table(own)
    assert table["split"].tolist() == ["grouped", "as described"]
    assert table["test − holdout"].tolist() == [1.0, 1.0]
    (sentence,) = findings.leakage_summary(table)
    assert "80.0 % on test images of which it saw copies, 79.0 % on the holdout: +1.0 points [-1.0" in sentence


@pytest.mark.parametrize(
    ("images", "seeds", "p_holm", "baseline"), [(5, 3, np.nan, 55.0), (40, 3, 0.01, 45.0), (40, 1, np.nan, 75.0)]
)
def test_the_report_states_the_limits_of_seeds_and_images(profile, images, seeds, p_holm, baseline):
    names, models = tuple(map(str, range(images))), (catalogue.DESCRIBED, catalogue.SEPARABLE)
    metrics = {"images_seen": 10, "recipe": profile.recipe.model_dump(), "device": "one CPU", "torch": "2.15"}
    ones = np.ones((images, 3, 3), int)
    runs = [Run(model, seed, metrics, ones, names, names) for model in models for seed in range(seeds)]
    ends = {"low": 50.0, "high": 70.0, "weights_low": 52.0, "weights_high": 68.0}
    summary = pd.DataFrame([{"miou": 60.0, **ends}, {"miou": 58.0, **ends}], index=list(models))
    pair = {"first": models[0], "second": models[1], "seeds": "3, 3", "units": images, "difference": 2.0, "needed": 4.0}
    pair |= {"low": -1.0, "high": 5.0, "weights_low": 0.0, "weights_high": 4.0, "p_value": p_holm, "p_holm": p_holm}
    pairs = pd.DataFrame([pair | {"detectable": 1.0, "detectable_holm": 1.5}])
    baselines = pd.DataFrame({"miou": [baseline]}, index=["pixel classifier: colour"])
    ledger = pd.DataFrame({"verdict": [claims.REPRODUCED]})
    compared = findings.comparison_summary(summary, pairs, runs, profile).data
    effects = findings.effects_summary(tables.ablation_effects(pairs), runs, profile).data
    results = findings.findings(summary, baselines, ledger, runs, profile).data
    for text in (compared, effects, results):
        assert ("Few independent images, 5" in text) == (images == 5)
        assert ("One seed cannot show which model is better" in text) == (seeds == 1)
        assert text.endswith("Trained on one CPU (PyTorch 2.15).")
    assert ("Of 1 pairs, 1 differ significantly" in compared) == ("is significant" in effects) == (p_holm < 0.05)
    assert ("inside that interval" in results) == (baseline == 55.0)
    assert "no accuracy, as this is a demonstration" in results


@pytest.mark.parametrize(("holdout", "images"), [(0, "the same images"), (8, "the test images")])
def test_the_pixel_classifier_is_scored_on_the_test_images(profile, holdout, images):
    data = profile.data.model_copy(update={"holdout_scenes": holdout})
    ious = {f"IoU {name}": 60.0 for name in data.class_names}
    row = {"miou": 60.0, "low": 50.0, "high": 70.0, "weights_low": 52.0, "weights_high": 68.0, **ious}
    summary = pd.DataFrame([row], index=[catalogue.FCN])
    baselines = pd.DataFrame({"miou": [45.0]}, index=["pixel classifier: colour"])
    runs = [Run(catalogue.FCN, 0, {}, np.zeros((1, 3, 3)), ("a",), ("a",))]
    *_, last = findings.own_results(summary, baselines, runs, profile.model_copy(update={"data": data}))
    assert f"{images} reach 45.0 %: the network is clearly better." in last


def test_models_trained_on_different_devices_are_named_with_them():
    devices = {catalogue.FCN: "a GPU", catalogue.DESCRIBED: "one CPU", catalogue.SEPARABLE: "one CPU"}
    runs = [
        Run(model, seed, {"device": device, "torch": "2.15"}, np.zeros((0, 3, 3)), (), ())
        for model, device in devices.items()
        for seed in (0, 1)
    ]
    names = [catalogue.SHORT[model] for model in devices]
    assert findings.trained_on(runs) == (
        f"Trained on a GPU (PyTorch 2.15): {names[0]}; on one CPU (PyTorch 2.15): {names[1]}, {names[2]}."
    )


@pytest.mark.parametrize("devices", [("a GPU", "a GPU"), ("a GPU", "one CPU")])
def test_training_times_of_different_devices_are_not_put_side_by_side(profile, devices):
    names, scored = (catalogue.FCN, catalogue.DESCRIBED), {"low": 50.0, "high": 70.0, "miou": 60.0, "mpa": 70.0}
    ious = {f"IoU {name}": 60.0 for name in profile.data.class_names}
    row = {**scored, **ious, "seeds": 1, "seed_deviation": np.nan, "train_minutes": 2.0}
    runs = [
        Run(model, 0, {"device": device, "images_seen": 10}, np.zeros((0, 3, 3)), (), ())
        for model, device in zip(names, devices, strict=True)
    ]
    shown = tables.models(pd.DataFrame([row, row], index=pd.Index(names, name="model")), runs, profile)
    assert ("train min" in shown) == (devices[0] == devices[1])


def test_an_interval_is_labelled_with_its_scope():
    row = {"low": 50.04, "high": 60.0, "weights_low": 51.0, "weights_high": 59.0}
    unknown = {"low": np.nan, "high": np.nan}
    assert tables.interval(row) == "[50.0,\N{NO-BREAK SPACE}60.0]"
    assert tables.interval(row | unknown) == "[51.0,\N{NO-BREAK SPACE}59.0] these weights"
    assert tables.interval(dict.fromkeys(row, np.nan)) == "too few images"


def test_a_rate_counts_as_chosen_when_every_rate_was_tried(profile, tmp_path):
    own = profile.model_copy(update={"root": tmp_path})
    own.tables.mkdir(parents=True)
    first, second = own.models
    rows = [f"{first},0.001,70", f"{first},0.01,71", f"{second},0.001,60"]
    (own.tables / "learning_rates.csv").write_text("\n".join(["model,learning_rate,miou", *rows]))
    assert tables.learning_rates(own)["chosen"].tolist() == [f"{own.recipe_of(first).learning_rate:g}", "not yet"]
