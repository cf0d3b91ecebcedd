"""Scenes on disk: images, annotations by two annotators, exact masks, and `truth.parquet`."""

import io
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from rhseg_lib.errors import StudyError
from rhseg_lib.files import write_atomically
from rhseg_lib.scenes.render import CLASSES, check_size, render_scene
from rhseg_lib.sources.images import VOC_PALETTE
from rhseg_lib.sources.labelme import write_annotation

FORMAT = 2  # of the truth in a mask


def write_scenes(
    folder: Path,
    *,
    num_scenes: int,
    size: int,
    seed: int,
    workers: int,
    first_index: int = 0,
    band_mm: tuple[float, float] | None = None,
) -> None:
    """Write scenes `first_index`, `first_index` + 1, ... of `render_scene`; existing scenes are kept.

    `folder` receives `scene_0000.jpg`, the two annotators' polygons as Labelme's `scene_0000.json` and
    `second/scene_0000.json`, the exact mask `truth/scene_0000.png`, and last `truth.parquet`, a row per tube: scene,
    tube, the fields of `Tube`, conditions. `band_mm` makes thin bands, see `render_scene`. `workers` is the number of
    processes, 0 for one per processor; the files do not depend on it.
    Raises StudyError for a parameter out of range, or a folder that holds scenes of another seed or size.
    """
    check_size(seed, first_index, size)
    if num_scenes < 1 or workers < 0:
        where = f"num_scenes={num_scenes}, workers={workers}"
        raise StudyError("nothing to write", where=where, fix="take num_scenes >= 1 and workers >= 0")
    for inner in ("second", "truth"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    spawn = get_context("spawn")  # forking a process with threads, such as torch's, may hang
    with ProcessPoolExecutor(workers or os.cpu_count(), spawn, cv2.setNumThreads, (1,)) as pool:
        indices = range(first_index, first_index + num_scenes)
        scenes = tqdm(pool.map(partial(_write_scene, folder, size, seed, band_mm), indices), "scenes", num_scenes)
        table = pd.DataFrame([row for rows in scenes for row in rows])
    write_atomically(folder / "truth.parquet", table.to_parquet(index=False))


def _write_scene(folder, size, seed, band_mm, index):
    """Write the files of one scene, the mask last: it stores the scene's truth rows, which are returned."""
    name = f"scene_{index:04d}"
    image, truth = folder / f"{name}.jpg", folder / "truth" / f"{name}.png"
    first, second = folder / f"{name}.json", folder / "second" / f"{name}.json"
    wanted = {"format": FORMAT, "seed": seed, "size": size, "band_mm": band_mm and list(band_mm)}
    found = _read_note(truth)
    if found and any(found[key] != wanted[key] for key in ("seed", "size", "band_mm")):
        what = f"the folder holds scenes of seed {found['seed']}, size {found['size']} and bands {found['band_mm']}"
        raise StudyError(what, where=truth, fix="give an empty folder, or set these")
    if found.get("format") == FORMAT and all(path.exists() for path in (image, first, second)):
        return found["rows"]
    scene, jpeg, png, note = render_scene(seed, index, size, band_mm=band_mm), io.BytesIO(), io.BytesIO(), PngInfo()
    Image.fromarray(scene.image).save(jpeg, "JPEG", quality=scene.jpeg_quality)
    write_atomically(image, jpeg.getvalue())
    drawn = partial(write_annotation, height=size, width=size)
    drawn(first, image_path=image.name, shapes=scene.annotations[0])
    drawn(second, image_path=f"../{image.name}", shapes=scene.annotations[1])
    conditions = ", ".join(scene.conditions)
    rows = [
        {"scene": name, "tube": number, **asdict(tube), "conditions": conditions}
        for number, tube in enumerate(scene.tubes)
    ]
    note.add_text("truth", json.dumps({**wanted, "rows": rows}))
    mask = Image.fromarray(scene.mask)
    mask.putpalette(VOC_PALETTE[: len(CLASSES)].tobytes())
    mask.save(png, "PNG", pnginfo=note)
    write_atomically(truth, png.getvalue())
    return rows


def _read_note(truth):
    """What is stored in a mask, {} without one; in files of an earlier version, format 1, rows lack most of `Tube`."""
    if not truth.exists():
        return {}
    with Image.open(truth) as mask:
        return {"format": 1, "band_mm": None, **json.loads(mask.text["truth"])}
