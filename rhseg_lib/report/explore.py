"""The controls of ``notebooks/explore.ipynb``: one image of a test scene, repainted as they change."""

import html
from functools import lru_cache, partial

import cv2
import ipywidgets as widgets
import numpy as np
import torch

from rhseg_lib.catalogue import CATALOGUE
from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.batches import load_tensors, normalize
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation import runs
from rhseg_lib.profile import Profile
from rhseg_lib.report import overlays
from rhseg_lib.report.thickness_figures import draw_readings, label
from rhseg_lib.sources.images import IGNORE_INDEX
from rhseg_lib.thickness.reading import read_mask

SIDE = 512  # screen pixels of the image
# The last is one of profiles with tube and slag.
LAYERS = ("annotation", "prediction", "wrong pixels", "probability of a class", "EMA attention", "slag thickness")


class Explorer:
    """Controls over the finished runs of a profile, and the image that they select.

    Networks and their outputs for a scene are computed once and cached, so a slider only repaints. A notebook displays
    `box`.

    Raises
    ------
    StudyError
        No finished run of the profile has its predictions here, or a run is of another data set.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.runs = {f"{run.model}, seed {run.seed}": run for run in runs.runs_with_predictions(profile)}
        # A network takes up to 210 MiB; a scene of 512×512 pixels and three classes 3 MiB.
        self.network, self.outputs = lru_cache(4)(partial(runs.load_model, profile)), lru_cache(128)(self._compute)
        names = [name.replace("_", " ") for name in profile.data.class_names]
        self.colours = legend(dict(zip(names[1:], overlays.CLASS_COLOURS[1:], strict=False)))

        looks = {"style": {"description_width": "70px"}, "layout": {"width": "auto"}}
        fraction = partial(widgets.FloatSlider, min=0, max=1, step=0.05, **looks)
        scenes, classes = next(iter(self.runs.values())).names, [(name, index) for index, name in enumerate(names)]
        self.scene = widgets.Dropdown(options=scenes, description="scene", **looks)
        self.run = widgets.Dropdown(options=list(self.runs), description="model", **looks)
        layers = LAYERS if profile.thickness.fits(profile.data.class_names) else LAYERS[:-1]
        self.layer = widgets.RadioButtons(options=layers, index=1, description="show", **looks)
        self.opacity = fraction(value=0.45, description="opacity")
        self.target = widgets.Dropdown(options=classes, index=len(names) - 1, description="class", **looks)
        self.threshold = fraction(value=0.5, description="threshold")
        self.group = widgets.IntSlider(min=1, max=8, description="group", **looks)
        self.image = widgets.Image(format="png", layout={"width": f"{SIDE}px", "max_width": "100%"})
        self.note = widgets.HTML()

        self.draw()
        sliders = (self.opacity, self.target, self.threshold, self.group)
        for control in (self.scene, self.run, self.layer, *sliders):
            control.observe(self.draw, "value")
        for control in (self.scene, self.run):
            control.layout.flex = "1 1 300px"
        banner = widgets.HTML(f'<div style="line-height: 1.5">{html.escape(profile.banner)}</div>')
        columns = widgets.VBox([self.layer, *sliders, self.note], layout={"width": "310px"}), self.image
        rows = (widgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in ((self.scene, self.run), columns))
        self.box = widgets.VBox([banner, *rows])

    def draw(self, _: dict | None = None) -> None:
        """Paint the image that the controls select, and describe it, or the error, in the note."""
        for control in (self.target, self.threshold):
            control.layout.display = None if self.layer.value == "probability of a class" else "none"
        self.group.layout.display = None if self.layer.value == "EMA attention" else "none"
        try:
            painted, note = self._paint(self.runs[self.run.value], self.scene.value, self.opacity.value)
        except (OSError, StudyError) as error:  # a callback has no cell to show it
            self.image.layout.visibility = "hidden"
            self.note.value = f'<pre style="white-space: pre-wrap">{html.escape(str(error))}</pre>'
            return
        self.image.value = cv2.imencode(".png", enlarge(painted)[..., ::-1])[1].tobytes()
        self.image.layout.visibility = "visible"
        self.note.value = f'<div style="line-height: 1.5">{note}</div>'

    def _paint(self, run: runs.Run, scene: str, opacity: float) -> tuple[np.ndarray, str]:
        """The image (H, W, 3) uint8 and its legend in HTML."""
        (image,), (truth,) = voc_tree.load_arrays(self.profile.voc, [scene])
        (prediction,) = runs.read_predictions(self.profile, run.model, run.seed, [scene])
        match self.layer.value:
            case "annotation":
                return overlays.blend(image, truth, opacity=opacity), self.colours
            case "prediction":
                score = runs.image_scores(run)[run.names.index(scene)]
                note = f"{self.colours}<br>mIoU of this image: {100 * score:.1f} %"
                return overlays.blend(image, prediction, opacity=opacity), note
            case "wrong pixels":
                share = (truth != prediction)[truth != IGNORE_INDEX].mean()
                painted = cv2.addWeighted(overlays.error_map(truth, prediction), opacity, image, 1 - opacity, 0)
                return painted, f"{legend({'wrong': overlays.WRONG})}: {100 * share:.1f} % of the annotated pixels"
            case "probability of a class":
                values = self.outputs(self.run.value, scene)[0][self.target.value]
                above = values >= self.threshold.value
                painted = overlays.outline(enlarge(overlays.heat(image, values, opacity=opacity)), enlarge(above))
                share = 100 * above[truth != IGNORE_INDEX].mean()  # without the margin
                reached = f"{share:.1f} % of the annotated pixels, which reach {self.threshold.value:.2f}"
                return painted, f"probability {colour_bar('0', '1')}<br>inside the white line: {reached}"
            case "slag thickness":
                readings = read_mask(prediction, self.profile.data.class_names, self.profile.thickness)
                big = enlarge(overlays.blend(image, prediction, opacity=opacity))
                lines = [f"tube {number}: {one.problem or label(one)}" for number, one in enumerate(readings, 1)]
                painted = draw_readings(big, readings, scale=big.shape[1] / prediction.shape[1])
                return painted, "<br>".join([self.colours, *lines] if lines else [self.colours, "no slag on a tube"])
            case _:
                maps = self.outputs(self.run.value, scene)[1]
                if maps is None:
                    return image, f"{run.model} has no EMA attention: no overlay."
                weights = maps[self.group.value - 1]
                bar = colour_bar(f"{weights.min():.3f}", f"{weights.max():.3f}")
                painted = overlays.attention_heat(image, weights, opacity=opacity)
                return painted, f"weight in this group of channels<br>{bar}"

    @torch.inference_mode()
    def _compute(self, name: str, scene: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities (K, H, W), and EMA's weights (G, h, w) if the model has it."""
        self.note.value = "computing …"
        run, image = self.runs[name], normalize(load_tensors(self.profile.voc, [scene])[0])
        network = self.network(run.model, run.seed)
        maps = overlays.ema_weights(network, image) if CATALOGUE[run.model].attention else None
        return network(image)[0].softmax(0).numpy(), maps


def enlarge(image: np.ndarray) -> np.ndarray:
    """Repeat the pixels of a small image (H, W, ...), which a browser would interpolate."""
    times = max(1, SIDE // max(image.shape[:2]))
    return image.repeat(times, 0).repeat(times, 1)


def legend(colours: dict[str, str]) -> str:
    """HTML legend of colours and names."""
    return " ".join(f'<span style="color: {colour}">■</span> {html.escape(name)}' for name, colour in colours.items())


def colour_bar(low: str, high: str) -> str:
    """HTML colour bar of `overlays.heat` from `low` to `high`."""
    bar = f"display: inline-block; width: 8em; height: 0.8em; background: linear-gradient(90deg, {overlays.HEAT_STOPS})"
    return f'{low} <span style="{bar}"></span> {high}'
