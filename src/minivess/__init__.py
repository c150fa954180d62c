"""Train, judge and serve 3-D biomedical segmentation models."""
