"""Tables as pages show them, and what single pixels tell."""

import numpy as np
import pandas as pd
import pytest

from rhseg_lib import StudyError, baselines, evaluation, plots, published, tables
from rhseg_lib.profile import Profile


def test_text_of_a_table_is_shown_as_text() -> None:
    shown = tables.show(pd.DataFrame({"label": ["<script>alert(1)</script>"], "<b>": [1.5]}), caption="a < b").data
    assert "<script>" not in shown
    assert "<b>" not in shown
    assert "&lt;script&gt;" in shown
    assert "1.50" in shown


def test_sentences_hold_names_as_text() -> None:
    assert tables.sentences(["<b>$x$</b>", "two"]).data == "<p>&lt;b&gt;$x$&lt;/b&gt;</p><p>two</p>"


def test_a_picture_may_be_titled_with_any_name() -> None:
    sheet = plots.contact_sheet([np.zeros((4, 4, 3), np.uint8)], columns=1, titles=["$\\frac{ $"])
    sheet.canvas.draw()
    plots.plt.close(sheet)


def test_a_missing_value_is_a_dash_and_a_large_count_is_grouped() -> None:
    shown = tables.show(pd.DataFrame({"a": [np.nan], "b": [5_813_523]}), caption="").data
    assert ">–<" in shown
    assert ">5,813,523<" in shown


def test_a_table_that_no_notebook_kept_is_a_clear_error(profile: Profile) -> None:
    with pytest.raises(StudyError, match="the table 'absent' is missing"):
        tables.read(profile, "absent")


def test_pixel_features_hold_colour_then_place() -> None:
    image = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(1, 2, 2, 3)
    rows = baselines.pixel_features(image, place=True)
    assert rows.tolist() == [[0, 1, 2, 0, 0], [3, 4, 5, 0.5, 0], [6, 7, 8, 0, 0.5], [9, 10, 11, 0.5, 0.5]]
    assert baselines.pixel_features(image, place=False).shape == (4, 3)


def test_blend_paints_classes_and_leaves_background() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    painted = plots.blend(image, np.array([[0, 1, 255]], np.uint8), opacity=1)
    assert painted[0, 0].tolist() == [100, 100, 100]
    assert painted[0, 1].tolist() == [0x0E, 0xA5, 0xE9]
    assert painted[0, 2].tolist() == [100, 100, 100]


def test_error_map_marks_wrong_pixels_and_leaves_ignored_ones_white() -> None:
    found = plots.error_map(np.array([[0, 1, 255]], np.uint8), np.array([[0, 2, 1]], np.uint8))
    assert found[0, 1].tolist() == [0xD1, 0x24, 0x2F]
    assert found[0, 2].tolist() == [255, 255, 255]
    assert found[0, 0].tolist() == [0xE6, 0xE9, 0xED]


def test_what_leakage_is_worth_comes_from_the_leaky_profiles_own_page(profile, tmp_path, monkeypatch):
    columns = ["seeds", "test", "holdout", "difference", "low", "high"]
    measured = pd.DataFrame([[1, 80.0, 79.0, 1.0, -1.0, 3.0]], index=["unet_vgg16"], columns=columns)
    monkeypatch.setattr(tables, "generalisation", lambda _: measured)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/leaky.yaml").write_text((profile.root / "profiles/tiny.yaml").read_text())
    study = profile.model_copy(update={"leaky": "leaky", "root": tmp_path})
    assert tables.promises(study)["split"].tolist() == ["grouped"]
    kept = tables.promises(study).assign(split="as described")
    tables.keep(kept, tmp_path / "reports/leaky/tables/generalisation.csv")
    found = tables.promises(study)
    assert found["split"].tolist() == ["grouped", "as described"]
    assert found["test − holdout"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("images", "p_holm", "floor"), [(5, 0.4, 55.0), (40, 0.01, 45.0), (40, 0.01, 75.0)])
def test_what_images_cannot_tell_is_said(profile, images, p_holm, floor):
    names, models = tuple(map(str, range(images))), (published.DESCRIBED, published.MOBILENET)
    metrics = {"images_seen": 10, "recipe": profile.recipe.model_dump()}
    runs = [evaluation.Run(model, 0, metrics, np.ones((images, 3, 3), int), names, names) for model in models]
    summary = pd.DataFrame({"miou": [60.0, 58.0], "low": [50.0, 48.0], "high": [70.0, 68.0]}, index=list(models))
    pair = {"first": models[0], "second": models[1], "difference": 0.02, "low": -0.01, "high": 0.05, "p_holm": p_holm}
    floors = pd.DataFrame({"miou": [floor]}, index=["pixel classifier: colour"])
    ledger = pd.DataFrame({"verdict": [published.REPRODUCED]})
    compared = tables.comparison_in_words(summary, pd.DataFrame([pair]), runs, profile).data
    found = tables.findings(summary, floors, ledger, runs, profile).data
    assert ("Few test images, 5" in compared) == ("Few test images, 5" in found) == (images == 5)
    assert ("do not tell it from 1 of the others" in compared) == (p_holm > 0.05)
    assert ("which lies in that interval" in found) == (floor == 55.0)
    assert "None of these is on an accuracy" in found
