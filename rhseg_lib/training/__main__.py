"""Train one model with one seed and write its run folder.

    python -m rhseg_lib.training --profile paper --model unet_vgg16 --seed 0

On several devices, of one or more machines, `torchrun --nproc-per-node 4 -m rhseg_lib.training` with the same options
trains to the last epoch and leaves a checkpoint; the study then evaluates it without training again.
"""

import argparse
import sys

from rhseg_lib.errors import exit_code
from rhseg_lib.profile import load_profile
from rhseg_lib.training.fit import run


def main(arguments: list[str] | None = None) -> None:
    """Train to the last epoch. One process writes the finished run; several leave a checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m rhseg_lib.training", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace a finished run of another recipe or data set")
    options = parser.parse_args(arguments)
    run(load_profile(options.profile), options.model, options.seed, overwrite=options.overwrite)


if __name__ == "__main__":
    sys.exit(exit_code(main))
