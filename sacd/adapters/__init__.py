"""Adapters: trainable networks that condition the frozen prior on a feature map."""
