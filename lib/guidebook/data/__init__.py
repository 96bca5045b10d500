"""Images, read, decoded once and batched; the catalog of data sets is `config.datasets`."""
