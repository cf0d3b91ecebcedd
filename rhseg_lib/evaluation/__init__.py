"""Evaluation of models: metrics, statistics, predictions (inference), run folders (runs), comparisons (compare)."""
