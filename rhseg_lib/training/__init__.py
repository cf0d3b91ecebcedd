"""One model, one seed: model and data (task), exact resume (fit), speed (speed)."""
