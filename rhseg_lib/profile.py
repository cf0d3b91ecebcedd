"""What to run: a typed profile read from ``profiles/<name>.yaml``; all paths of the study derive from it."""

import json
import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator

from rhseg_lib.catalogue import MODEL_NAMES
from rhseg_lib.errors import StudyError
from rhseg_lib.files import parse_yaml, read_text
from rhseg_lib.settings import ImageSize, Label, Number, Positive, Seed, Strict, Thickness

ModelName = Literal[MODEL_NAMES]  # type: ignore[valid-type]  # a type checker cannot read the names
IN_WORDS = {  # types of pydantic's errors
    "tuple_type": "a list is needed, as in [a, b]",
    "extra_forbidden": "unknown key",
    "model_type": "keys and values are needed, as in {key: value}",
}


class Data(Strict):
    """Where the images come from and how they become a VOC tree (paper, section 3.1)."""

    source: Literal["synthetic", "labelme", "voc"] = "synthetic"
    folder: str | None = None  # labelme: images and Labelme JSON; voc: a tree of images and masks, see `voc_folder`
    # Whether invalid annotations stop the build or are left out; on_fault was its name.
    on_error: Literal["stop", "skip"] = Field("stop", validation_alias=AliasChoices("on_error", "on_fault"))
    # A Labelme file without a shape: its image shows background only, or an annotation error (not yet annotated).
    without_shapes: Literal["background", "error"] = "background"
    seed: Seed = 2024
    num_scenes: int = Field(500, ge=10)
    holdout_scenes: int = Field(0, ge=0)  # fresh scenes beside num_scenes, evaluated on, never trained on
    scene_size: int = Field(512, ge=64, le=8192)  # pixels, side of a rendered scene
    image_size: ImageSize = 512  # of the study's images
    # Side in pixels of the tiles that images are cut into, each scaled to image_size; None: images are scaled whole.
    tile: ImageSize | None = None
    # Mask values 1, 2, ...; 0 is background.
    classes: tuple[Label, ...] = Field(("immersion_tube", "slag_layer"), min_length=1, max_length=254)
    # Painting order: later classes cover earlier ones; None: in drawing order.
    class_priority: tuple[Label, ...] | None = Field(default_factory=lambda data: data.get("classes"))
    ignore_labels: tuple[Label, ...] = ("__ignore__",)  # regions left out of training and evaluation
    background_labels: tuple[Label, ...] = ()  # annotated objects that count as background
    augmented_copies: int = Field(1, ge=0, le=4)  # per original, in turn: flip, contrast, brightness, blur
    split: Literal["given", "grouped", "as_described"] = Field(  # given: by the lists of a VOC tree, if it has them
        default_factory=lambda data: "given" if data.get("source") == "voc" else "grouped"
    )
    test_fraction: Number = Field(0.1, gt=0, lt=1)
    group: str | None = None  # regular expression; its match in a name is the heat, which the split keeps together

    @field_validator("group")
    @classmethod
    def _is_regular_expression(cls, group: str | None) -> str | None:
        try:
            re.compile(group or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"not a regular expression ({error})") from error
        return group

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.source == "synthetic") == (self.folder is not None):
            raise ValueError("'folder' is required for the sources 'labelme' and 'voc', and allowed only there")
        if self.source != "synthetic" and self.holdout_scenes:
            raise ValueError("'holdout_scenes' are rendered: they require source 'synthetic'")
        if self.source == "synthetic" and self.tile:
            raise ValueError("'tile' requires the source 'labelme' or 'voc'")
        if self.split == "given" and self.source != "voc":
            raise ValueError("'split: given' requires source 'voc', whose lists it uses")
        if self.group is not None and (self.split == "as_described" or self.holdout_scenes):
            raise ValueError("'group' cannot be combined with 'split: as_described' or 'holdout_scenes'")
        if len({*self.class_names}) < len(self.class_names):
            raise ValueError("'classes' must name each class once, and must not name the background")
        priority = self.class_priority
        if self.source != "voc" and priority is not None and sorted(priority) != sorted(self.classes):
            raise ValueError("'class_priority' must name each of 'classes' once")
        return self

    @property
    def description(self) -> str:
        """Where the images come from, for banners and for the card of trained weights."""
        return "synthetic scenes" if self.source == "synthetic" else f"images of {self.folder}"

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("background", *self.classes)

    @property
    def unit(self) -> str:
        """What the models are tested on, in the plural."""
        return "tiles" if self.tile else "images"


def in_pixels(image_size: int, tile: int | None) -> str:
    """The size of the images that a model sees, for banners and for the card of its weights."""
    return f"{image_size}×{image_size} px" + (f" per tile of {tile}×{tile} px" if tile else "")


class Recipe(Strict):
    """How a model is trained (paper, Table 1)."""

    epochs: int = Field(150, ge=1)
    epoch_images: int | None = Field(None, ge=2)  # images drawn per epoch; None: each training image once
    batch_size: int = Field(4, ge=2)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 7e-3
    min_learning_rate: Number = Field(7e-5, ge=0)
    scale_rate_by_batch: bool = False  # both rates × batch_size / 16, as in the repositories of Table 1's values
    warmup_epochs: Number = Field(3.0, ge=0)  # linear; our assumption, the paper names none
    momentum: Number = Field(0.9, ge=0, lt=1)
    weight_decay: Number = Field(1e-4, ge=0)
    dice_weight: Number = Field(0.0, ge=0)  # of a Dice loss added to cross-entropy; the paper names no loss
    flip: bool = False  # each image mirrored with probability 1/2, each time that it is drawn
    precision: Literal["32", "bf16"] = "32"
    channels_last: bool = False  # memory layout; same results up to rounding
    dataset_on_device: bool = True  # decoded once, batches formed on the model's device; false: decoded every epoch
    compile: Literal["off", "default", "cuda_graphs"] = "off"  # torch.compile; cuda_graphs: a step is replayed
    recompute_batchnorm: bool = False  # running statistics from one clean pass before evaluation
    pretrained: bool = False  # ImageNet encoder weights
    start_from: str | None = None  # weights.safetensors of an earlier run of this model; instead of `pretrained`
    validation_fraction: Number = Field(0.0, ge=0, le=0.5)  # training originals scored after each epoch
    keep_best_epoch: bool = False  # the weights of the epoch that scored best on them; false: of the last one

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.epoch_images is not None and self.epoch_images < self.batch_size:
            raise ValueError("'epoch_images' is smaller than 'batch_size'")
        if self.min_learning_rate > self.learning_rate:
            raise ValueError("'min_learning_rate' must not exceed 'learning_rate'")
        if self.keep_best_epoch and not self.validation_fraction:
            raise ValueError("'keep_best_epoch' requires a 'validation_fraction' above 0, on which epochs are scored")
        if self.warmup_epochs >= self.epochs:
            raise ValueError("'warmup_epochs' must be less than 'epochs': the rate rises, then falls")
        return self

    @property
    def rates(self) -> tuple[float, float]:
        """Initial and final learning rate of the optimizer."""
        scale = self.batch_size / 16 if self.scale_rate_by_batch else 1
        return self.learning_rate * scale, self.min_learning_rate * scale

    @property
    def digest(self) -> str:
        """Equal for equal recipes; a key added in a later version and left at its default does not change it."""
        return fingerprint(self.model_dump(exclude_defaults=True))


class Profile(Strict):
    """One study: its data, its recipe, its models and seeds."""

    name: str
    title: str
    kind: Literal["demonstration", "result"]
    data: Data
    recipe: Recipe
    # Differences from `recipe`, per model.
    recipe_for: dict[ModelName, dict[str, int | float | str | bool]] = Field(default_factory=dict)
    models: tuple[ModelName, ...] = MODEL_NAMES
    seeds: tuple[Seed, ...] = (0,)
    # Whether the report judges the paper; otherwise it is about one's own classes, models and images.
    paper: bool = Field(default_factory=lambda data: data["data"].source == "synthetic")
    thickness: Thickness = Field(default_factory=lambda: Thickness.model_validate({}))
    gpu_gb_per_run: int = Field(0, ge=0)  # GPU memory of one run: decides how many share the GPU
    leaky: str | None = None  # a profile that splits the same data with leakage, to compare its scores
    root: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="after")
    def _no_duplicates(self) -> Self:
        if self.data.source == "synthetic" and self.thickness.seed == self.data.seed:
            raise ValueError("'thickness.seed' must differ from 'data.seed': no scene may be one trained on")
        for key, values in (("models", self.models), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"'{key}' must not be empty or list an entry twice")
        return self

    @property
    def raw(self) -> Path:
        return self.root / "data" / self.name / "raw"

    @property
    def voc(self) -> Path:
        return self.root / "data" / self.name / "voc"

    @property
    def reports(self) -> Path:
        return self.root / "reports" / self.name

    @property
    def tables(self) -> Path:
        return self.reports / "tables"

    @property
    def figures(self) -> Path:
        return self.reports / "figures"

    def run_folder(self, model: str, seed: int) -> Path:
        return self.reports / "runs" / model / f"seed{seed}"

    def recipe_of(self, model: str) -> Recipe:
        """The common recipe with the changes that ``recipe_for`` names; StudyError for an unknown model."""
        if model not in MODEL_NAMES:
            raise StudyError(f"unknown model '{model}'", where="'model'", fix=f"take one of: {', '.join(MODEL_NAMES)}")
        return Recipe.model_validate({**self.recipe.model_dump(), **self.recipe_for.get(model, {})})

    @property
    def banner(self) -> str:
        """One line for the top of a page: its data and its recipe."""
        r = self.recipe
        each = f" of {r.epoch_images} images" if r.epoch_images else ""
        different = sum(model in self.recipe_for for model in self.models)
        others = f"; another for {different} of the {len(self.models)} models, see their pages" if different else ""
        return (
            f"{self.data_banner} Recipe: {r.epochs} epochs{each}, batch {r.batch_size}, {r.optimizer.upper()}, "
            f"learning rate {r.rates[0]:g} → {r.rates[1]:g}{others}."
        )

    @property
    def data_banner(self) -> str:
        """The same for a page that no recipe changes, so that it is not made again for one."""
        size = in_pixels(self.data.image_size, self.data.tile)
        result = "a result on synthetic data" if self.data.source == "synthetic" else "a result"
        kind = result if self.kind == "result" else "a demonstration, not a result"
        return f"{self.title}. Profile {self.name}: {kind}. Data: {self.data.description}, {size}."


def find_root() -> Path:
    """The nearest folder upwards that contains ``profiles/``; notebooks run from the top folder or their own."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "profiles").is_dir():
            return Path(os.path.relpath(folder))  # relative, so that no page shows an absolute path
    raise StudyError("no folder 'profiles' here or above", where=here, fix="start in the study's top folder")


def _is_name(name: str) -> bool:
    """Whether a shell, Snakemake and papermill all take a profile's name for itself."""
    is_plain = name.replace("-", "_").isidentifier() and name[0] != "-"
    return is_plain and name.lower() not in ("nan", "inf", "infinity") and yaml.safe_load(name) == name


def load_profile(name: str, *, root: Path | str | None = None) -> Profile:
    """Read and check ``<root>/profiles/<name>.yaml``.

    `root` is the study's top folder, with data and reports below it; None searches upwards from the working directory.
    Raises StudyError for an unknown profile, invalid YAML, an unknown key or an invalid value.
    """
    root = find_root() if root is None else Path(root)
    path = root / "profiles" / f"{name}.yaml"
    stems = sorted(p.stem for p in (root / "profiles").glob("*.yaml"))
    known, misnamed = ([stem for stem in stems if _is_name(stem) == valid] for valid in (True, False))
    if name not in known:
        fix = f"take one of: {', '.join(known) or 'none'}"
        if misnamed:
            rule = "letters, digits, _ and -, a letter first, no word such as on or null"
            fix += f"; rename {', '.join(misnamed)}: {rule}"
        raise StudyError(f"unknown profile '{name}'", where=path, fix=fix)
    content = parse_yaml(read_text(path), where=path)
    try:
        if not isinstance(content, dict | None):
            raise TypeError("it is no mapping of keys to values")
        # Through JSON: a YAML list becomes a tuple under strict validation.
        profile = Profile.model_validate_json(json.dumps({"name": name, **(content or {})}))
        for model in profile.recipe_for:
            profile.recipe_of(model)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            if problem["type"] == "default_factory_not_called":  # it follows from another one of these
                continue
            key = ".".join(map(str, problem["loc"])) or "profile"
            problems.append(f"{key}: {IN_WORDS.get(problem['type'], problem['msg'])}, got {problem['input']!r:.60}")
        raise StudyError("the profile is invalid", where=path, fix="; ".join(problems)) from error
    except (TypeError, ValueError, RecursionError) as error:  # no mapping; or a date or an endless alias, or too deep
        fix = "write plain texts, numbers, lists and mappings, as the other profiles do"
        raise StudyError(f"the profile is invalid: {error}", where=path, fix=fix) from error
    for key in ("name", "root"):
        if key in (content or {}):
            raise StudyError(f"the key '{key}' is set by the file's location", where=path, fix="remove it")
    return profile.model_copy(update={"root": root})


def fingerprint(*parts: object) -> str:
    """Short digest of JSON-serializable settings: equal settings give equal digests on any machine."""
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
