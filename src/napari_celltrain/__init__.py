"""Train 3D cell segmentation networks, in napari and from the command line."""

__version__ = "0.2.0.dev0"
