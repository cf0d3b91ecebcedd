"""Slag thickness from masks: lines and edges (measure), millimetres and intervals (scale), accuracy (study)."""
