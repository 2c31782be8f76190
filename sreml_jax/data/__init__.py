"""Datasets in retrieval splits. The only folder that imports tensorflow, and only when a dataset is prepared."""
