"""params.yaml: its sections, and reading and checking them."""
