"""One MobileNetV2 trunk, many heads: classification, detection and segmentation with PyTorch Lightning."""

__version__ = "0.1.0"
