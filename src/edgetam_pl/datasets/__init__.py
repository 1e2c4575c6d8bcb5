"""Data sets as their authors hand them out, and folders of one's own: frames and masks for shards and evaluation alike.

A layout is a file in `layouts`, which `source=NAME` names; see `layout.py` for what it gives.
"""
