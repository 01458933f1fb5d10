"""What the programs of the pipeline and the `sacd` command share."""
