"""What params may say, the catalog of data sets, pretrained weights and paths; imports no torch."""
