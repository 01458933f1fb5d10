"""The networks that are looked into: timm models as functions to feature maps."""
