"""Train one model with one seed and write its run folder.

    python -m rhseg_lib.training --profile paper --model unet_vgg16 --seed 0

On several devices, of one machine or of many, `torchrun --nproc-per-node 4 -m rhseg_lib.training` with the same options
trains to the last epoch and leaves the checkpoint; the study then evaluates it without training again.
"""

from __future__ import annotations

import argparse
import sys

from rhseg_lib.errors import StudyError
from rhseg_lib.profile import check_model, load_profile
from rhseg_lib.training.fit import run


def main(arguments: list[str] | None = None) -> None:
    """Train one run to its last epoch. One process writes the finished run; several leave their checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m rhseg_lib.training", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace a finished run of another recipe or data set")
    given = parser.parse_args(arguments)
    check_model(given.model)
    run(load_profile(given.profile), given.model, given.seed, overwrite=given.overwrite)


if __name__ == "__main__":
    try:
        main()
    except StudyError as fault:
        sys.exit(f"error: {fault}")
