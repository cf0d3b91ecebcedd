"""Synthetic RH scenes: what varies (look), how it is painted (paint, tube), the camera's view (render), files."""
