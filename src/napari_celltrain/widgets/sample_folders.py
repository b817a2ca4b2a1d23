"""Sample data as a user has them: a folder of images and a folder of labels, ready to be chosen in the Data tab."""

from __future__ import annotations

from typing import Any

from napari.utils.notifications import show_error, show_info

from napari_celltrain.data.volumes import find_volumes, open_labels, open_volume
from napari_celltrain.errors import CellTrainError
from napari_celltrain.runs import atomic
from napari_celltrain.samples import write_demo
from napari_celltrain.widgets.path_edit import remember_path
from napari_celltrain.widgets.preferences import preferences

FOLDER = "sample-nuclei"


def sample_folders() -> list[tuple[Any, dict[str, Any], str]]:
    """napari's sample-data hook: writes the folders once, and opens their first pair."""
    folder = preferences().results_folder / FOLDER
    images, labels = folder / "images", folder / "labels"
    try:
        if not labels.is_dir():
            write_demo(folder)
        for path, field in ((images, "images"), (labels, "labels")):
            remember_path(field, path)
        image, objects = open_volume(find_volumes(images)[0]), open_labels(find_volumes(labels)[0])
        layers = [(image.read(), "image"), (objects.read(), "labels")]
    except CellTrainError as error:
        show_error(str(error))
        return []
    except OSError as error:
        show_error(str(atomic.refusal(folder, error)))
        return []
    show_info(f"Generated nuclei are in {images} and {labels}; the Data tab has both among its recent folders.")
    scale = image.voxel_size or (1.0, 1.0, 1.0)
    return [(array, {"name": f"{image.name} {kind}", "scale": scale}, kind) for array, kind in layers]
