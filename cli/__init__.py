"""The command `sacd`: a module for each of its verbs."""
