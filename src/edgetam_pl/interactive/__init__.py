"""An interactive session on a video: clicks, boxes and masks, tracked and corrected."""
