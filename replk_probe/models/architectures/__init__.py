"""Network architectures, one file per family, registered with timm."""
