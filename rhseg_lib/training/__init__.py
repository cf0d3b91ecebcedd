"""Train a model with a seed: loss and schedule (task), exact resume (fit), earlier weights (start), speed (speed)."""
