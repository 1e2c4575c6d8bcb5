"""A person in front of a video: clicks, boxes and masks, followed and corrected."""
