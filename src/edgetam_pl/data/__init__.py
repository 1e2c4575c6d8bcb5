"""From folders to shards to batches of clips. The only importers of webdataset, PIL and PyAV."""
