"""What models are worth: metrics and statistics, predictions (inference), run folders (runs), comparisons (compare)."""
