"""The schema of params, the catalog of data sets, pretrained weights and paths; imports no torch."""
