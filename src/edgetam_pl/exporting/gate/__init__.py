"""The gate of an export: are the packages the checkpoint, part by part and over whole clips?"""
