"""Adapters: trainable networks that steer the frozen prior by a feature map."""
