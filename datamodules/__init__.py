"""Multi-environment image data sets: environments, splits, fingerprints and batches."""
