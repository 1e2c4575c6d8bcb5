"""Evaluation: data sets, protocols, scores and reports. A tracker is handed in; nothing here knows the model or training."""
