"""The recipe's `start_from`: a run that begins with the weights of an earlier one."""

from hashlib import sha256
from pathlib import Path

from rhseg_lib.dataset import voc_tree
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.weights import read_weights
from rhseg_lib.profile import find_root
from rhseg_lib.training.task import SegmentationTask


def start_from_earlier(task: SegmentationTask, voc_folder: Path, folder: Path) -> tuple[str, ...]:
    """Load the weights that the recipe names and return the digest of their file; nothing if it names none.

    `folder` is that of the run. StudyError if the weights are of another model or of other classes, or if the run will
    replace them.
    """
    if task.recipe.start_from is None:
        return ()
    path = find_root() / task.recipe.start_from
    network, card = read_weights(path)
    classes = tuple(voc_tree.read_dataset(voc_folder)["classes"])
    if (card.model, card.class_names) != (task.model_name, classes):
        what = f"'start_from' names weights of {card.model} for {', '.join(card.class_names)}"
        fix = f"name weights of {task.model_name} for {', '.join(classes)}; with several models, in 'recipe_for'"
        raise StudyError(what, where=path, fix=fix)
    if path.resolve().is_relative_to(folder.resolve()):
        fix = "copy the file elsewhere, and name the copy"
        raise StudyError("'start_from' names the weights that this run will replace", where=path, fix=fix)
    task.model.load_state_dict(network.state_dict())
    return (sha256(path.read_bytes()).hexdigest(),)
