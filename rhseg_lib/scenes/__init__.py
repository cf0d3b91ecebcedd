"""Synthetic RH scenes: random parameters (look), painting (paint, tube), camera view (render), files (write)."""
