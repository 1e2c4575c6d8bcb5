"""One file a layout of data sets; each has `open_layout(config)`, and `source=NAME` names the file."""
