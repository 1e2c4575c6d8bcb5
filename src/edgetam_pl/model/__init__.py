"""The model: a function of its inputs, with no state between calls and no I/O (Eq. 1 to 6)."""
