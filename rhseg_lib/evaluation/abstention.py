"""Compute the abstention threshold of finished runs again and store it in their weights; nothing is trained.

    python -m rhseg_lib.evaluation.abstention --profile reduced

For weights that hold none because they were written before confidence was defined as it is now. It needs the profile's
data set, the one the runs were trained on (`make report PROFILE=...` builds it).
"""

import argparse
import sys

from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.batches import load_tensors
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation import runs, weights
from rhseg_lib.evaluation.inference import abstention_bound
from rhseg_lib.profile import Profile, load_profile


def update_threshold(profile: Profile, run: runs.Run) -> float:
    """Store the 1st percentile of the test images' confidence in a run's weights, and return it."""
    path = profile.run_folder(run.model, run.seed) / "weights.safetensors"
    network, card = weights.read_weights(path)
    bound = abstention_bound(network, *load_tensors(profile.voc, voc_tree.read_split(profile.voc, "test")))
    weights.write_weights(path, network, card.model_copy(update={"abstain_below": bound}))
    return bound


def main(arguments: list[str] | None = None) -> None:
    """Update every finished run of a profile whose weights are on disk."""
    command = "python -m rhseg_lib.evaluation.abstention"
    parser = argparse.ArgumentParser(prog=command, description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True)
    profile = load_profile(parser.parse_args(arguments).profile)
    for run in runs.finished_runs(profile, part="test"):
        if runs.has_weights(profile, run):
            print(f"{run.model}, seed {run.seed}: {update_threshold(profile, run):.4f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except StudyError as error:
        sys.exit(f"error: {error}")
