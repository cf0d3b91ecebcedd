"""One model, one seed: what is trained (task), exact resume (fit), how fast (speed)."""
