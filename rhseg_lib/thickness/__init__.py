"""Slag thickness from masks: lengths in pixels (measure, sides), millimetres with an interval (reading), options."""
