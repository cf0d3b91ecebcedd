"""Train a model with a seed: loss and schedule (task), exact resume (fit), start from earlier weights, speed."""
