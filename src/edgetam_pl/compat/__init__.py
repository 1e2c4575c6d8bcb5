"""Repairs of other packages, made before they are imported."""
