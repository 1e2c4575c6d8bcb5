"""Files: videos, frames, label maps, run-length masks."""
