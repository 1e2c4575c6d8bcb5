"""The model in time: pure functions over explicit state."""
