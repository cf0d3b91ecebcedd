"""Train one model with one seed: loss and schedule (task), training run with exact resume (fit), speed (speed)."""
