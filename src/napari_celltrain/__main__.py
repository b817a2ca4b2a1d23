"""``python -m napari_celltrain`` is the command ``celltrain``."""

from napari_celltrain.cli import main

if __name__ == "__main__":
    main()
