import errno
import logging
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from napari_celltrain.io.volume import ArrayVolume, fingerprint
from napari_celltrain.io.volumes import find_volumes, open_labels, open_volume, stem_of
from napari_celltrain.io.writer import write_volume
from napari_celltrain.values.errors import DataError

SHAPE = (12, 20, 24)


def stack(dtype="uint16", shape=SHAPE):
    values = np.random.default_rng(0).integers(0, 200, size=shape)
    return values.astype(dtype)


def write_zarr(path, array, version, *, unit="micrometer", scale=(2.0, 0.5, 0.4), axes="zyx", **options):
    kinds = {"c": "channel", "t": "time"}
    described = [
        {"name": a, "type": kinds.get(a, "space")} | ({"unit": unit} if unit and a in "zyx" else {}) for a in axes
    ]
    full_scale = [1.0] * (len(axes) - 3) + list(scale)
    multiscales = [
        {
            "version": "0.4",
            "axes": described,
            "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": full_scale}]}],
        }
    ]
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    group.attrs.update({"multiscales": multiscales} if version == 2 else {"ome": {"multiscales": multiscales}})
    stored = group.create_array("0", shape=array.shape, dtype=array.dtype, chunks=(8,) * array.ndim, **options)
    stored[...] = array
    return path


# --- reading TIFF ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "voxel_size"),
    [
        ({"metadata": None}, None),
        ({"metadata": None, "resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"compression": "zlib"}, None),
        ({"compression": "lzw", "metadata": {"axes": "ZYX"}}, None),
        ({"compression": "zstd", "tile": (16, 16), "metadata": {"axes": "ZYX"}}, None),
        ({"bigtiff": True}, None),
        ({"byteorder": ">"}, None),
        (
            {"imagej": True, "resolution": (4, 2), "metadata": {"axes": "ZYX", "spacing": 1.5, "unit": "micron"}},
            (1.5, 0.5, 0.25),
        ),
        (
            {"imagej": True, "resolution": (4, 2), "metadata": {"axes": "ZYX", "spacing": 500, "unit": "nm"}},
            (0.5, 0.0005, 0.00025),
        ),
        ({"imagej": True, "resolution": (4, 2), "metadata": {"axes": "ZYX", "unit": "um"}}, None),
        ({"imagej": True, "metadata": {"axes": "ZYX", "spacing": 1.5, "unit": "pixel"}}, None),
        (
            {
                "ome": True,
                "metadata": {
                    "axes": "ZYX",
                    "PhysicalSizeX": 0.2,
                    "PhysicalSizeY": 200,
                    "PhysicalSizeYUnit": "nm",
                    "PhysicalSizeZ": 0.001,
                    "PhysicalSizeZUnit": "mm",
                },
            },
            (1.0, 0.2, 0.2),
        ),
        ({"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.2}}, None),
    ],
)
def test_tiff_of_every_kind_is_read_with_its_voxel_size(tmp_path, options, voxel_size):
    path, array = tmp_path / "a.tif", stack()
    tifffile.imwrite(path, array, **options)
    volume = open_volume(path)
    assert (volume.name, volume.shape, volume.dtype) == ("a", SHAPE, np.dtype("uint16"))
    assert volume.voxel_size == (pytest.approx(voxel_size) if voxel_size else None)
    np.testing.assert_array_equal(volume.read(), array)
    assert volume.read().dtype.isnative


def test_spacing_that_imagej_leaves_out_is_one(tmp_path):
    path = tmp_path / "a.tif"
    description = "ImageJ=1.54f\nimages=12\nslices=12\nunit=micron\nloop=false\n"
    tifffile.imwrite(path, stack(), description=description, metadata=None, resolution=(4, 4))
    assert open_volume(path).voxel_size == (1.0, 0.25, 0.25)


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"imagej": True, "metadata": {"axes": "ZYX"}}])
def test_uncompressed_tiff_is_read_piece_by_piece(tmp_path, options):
    path, array = tmp_path / "a.tif", stack()
    tifffile.imwrite(path, array, **options)
    lazy = open_volume(path).lazy()
    assert lazy is not None
    assert lazy.shape == SHAPE
    piece = lazy[2:5, 3:9, 1:4]
    np.testing.assert_array_equal(piece, array[2:5, 3:9, 1:4])
    assert piece.dtype.isnative


def test_compressed_tiff_is_not_lazy(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", stack(), compression="zlib")
    assert open_volume(tmp_path / "a.tif").lazy() is None


@pytest.mark.parametrize(
    ("stored", "read"),
    [("bool", "uint8"), ("float16", "float32"), ("float64", "float64"), ("int8", "int8"), ("uint32", "uint32")],
)
def test_types(tmp_path, stored, read):
    path, array = tmp_path / "a.tif", stack("uint8") % 2
    tifffile.imwrite(path, array.astype(stored))
    volume = open_volume(path)
    assert volume.dtype == volume.read().dtype == np.dtype(read)
    np.testing.assert_array_equal(volume.read(), array)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_channel_is_chosen(tmp_path, compression):
    path, array = tmp_path / "a.tif", stack(shape=(12, 2, 20, 24))
    tifffile.imwrite(path, array, imagej=True, metadata={"axes": "ZCYX"}, compression=compression)
    with pytest.raises(DataError, match=r"a\.tif: The volume has 2 channels.*from 0 to 1") as caught:
        open_volume(path)
    assert caught.value.problems[0].settings == ("data.channel",)
    with pytest.raises(DataError, match="no channel 2: the volume has 2 channels, 0 to 1"):
        open_volume(path, channel=2)
    with pytest.raises(DataError, match="labels must have one"):
        open_labels(path)
    volume = open_volume(path, channel=1)
    np.testing.assert_array_equal(volume.read(), array[:, 1])
    if compression is None:
        np.testing.assert_array_equal(volume.lazy()[3:5, :, 2:4], array[3:5, 1, :, 2:4])
    assert volume.key != open_volume(path, channel=0).key


def test_one_channel_is_number_zero(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", stack())
    assert open_volume(tmp_path / "a.tif", channel=0).shape == SHAPE
    with pytest.raises(DataError, match="no channel 1: the volume has 1 channel, number 0"):
        open_volume(tmp_path / "a.tif", channel=1)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((20, 24), {}, "2D image of 20 × 24"),
        ((5, 20, 24, 3), {"photometric": "rgb"}, "colour"),
        ((3, 12, 20, 24), {"imagej": True, "metadata": {"axes": "TZYX"}}, "time series of 3 time points"),
        ((5, 20, 24), {"imagej": True, "metadata": {"axes": "TYX"}}, "5 time points.*give the axes as ZYX"),
        ((5, 12, 20, 24), {}, "does not say which is which.*for example CZYX"),
        ((2, 3, 12, 20, 24), {}, "5 axes"),
    ],
)
def test_what_is_no_volume_is_said(tmp_path, shape, options, message):
    tifffile.imwrite(tmp_path / "odd.tif", stack("uint8", shape), **options)
    with pytest.raises(DataError, match=message) as caught:
        open_volume(tmp_path / "odd.tif")
    assert "odd.tif" in str(caught.value)


def test_given_axes_override_those_of_the_file(tmp_path):
    path, array = tmp_path / "a.tif", stack()
    tifffile.imwrite(path, array, imagej=True, metadata={"axes": "TYX"})
    np.testing.assert_array_equal(open_volume(path, axes="ZYX").read(), array)
    np.testing.assert_array_equal(open_volume(path, axes="XYZ").read(), array.transpose(2, 1, 0))
    with pytest.raises(DataError, match="axes are given as CZYX"):
        open_volume(path, axes="CZYX")
    assert open_volume(path, axes="ZYX", voxel_size=(3, 2, 1)).voxel_size == (3, 2, 1)


# --- damaged files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib"},
        {"compression": "zlib", "metadata": None},
        {"compression": "zlib", "imagej": True},
        {"compression": "zlib", "ome": True},
        {"metadata": None},
        {},
        {"imagej": True},
        {"ome": True},
        {"bigtiff": True, "compression": "zlib"},
    ],
)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.995])
def test_a_file_that_was_cut_off_is_refused(tmp_path, options, share):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, np.random.default_rng(1).integers(0, 60000, (20, 64, 64), dtype=np.uint16), **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    try:
        array = open_volume(path).read()
    except DataError as error:
        assert str(error).startswith("cut.tif: ")  # noqa: PT017
    else:
        assert array.shape == (20, 64, 64)  # only metadata behind the last plane were lost


def tiny_tiff(width, height, compression, data=b"\0" * 16):
    """A TIFF of one strip, with any announced size."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, height), (279, 4, len(data))]
    header = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return header + data + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


@pytest.mark.parametrize("compression", [1, 5, 8])
def test_an_absurd_size_is_refused_before_memory_is_taken(tmp_path, compression):
    (tmp_path / "bomb.tif").write_bytes(tiny_tiff(1_000_000, 1_000_000, compression))
    with pytest.raises(DataError, match=r"bomb\.tif"):
        open_volume(tmp_path / "bomb.tif")


def test_damaged_planes_name_the_file(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack(), compression="zlib", metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as tif:
        start = tif.pages[6].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tif: The file cannot be decoded"):
        open_volume(path).read()


@pytest.mark.parametrize("content", [b"", b"II", b"hello, I am no image at all", b"II*\0" + b"\0" * 40])
def test_what_is_no_tiff_is_refused(tmp_path, content):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tif"):
        open_volume(tmp_path / "a.tif")


def test_a_loop_of_pages_ends(tmp_path):
    content = tiny_tiff(4, 4, 1)
    (tmp_path / "a.tif").write_bytes(content[:-4] + struct.pack("<I", 8 + 16))
    with pytest.raises(DataError, match="list of planes"):
        open_volume(tmp_path / "a.tif")


def test_complex_numbers_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", stack().astype("complex64"))
    with pytest.raises(DataError, match="complex"):
        open_volume(tmp_path / "a.tif")


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_volume(tmp_path / "no.tif")
    if sys.platform != "win32" and os.geteuid() != 0:
        tifffile.imwrite(tmp_path / "a.tif", stack())
        (tmp_path / "a.tif").chmod(0)
        with pytest.raises(DataError, match="permission"):
            open_volume(tmp_path / "a.tif")


# --- OME-Zarr -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr(tmp_path, version):
    array = stack()
    volume = open_volume(write_zarr(tmp_path / "a.ome.zarr", array, version))
    assert (volume.name, volume.shape, volume.voxel_size) == ("a", SHAPE, (2.0, 0.5, 0.4))
    np.testing.assert_array_equal(volume.read(), array)
    np.testing.assert_array_equal(volume.lazy()[2:11, 3:9, 1:14], array[2:11, 3:9, 1:14])


def test_ome_zarr_units_axes_and_channels(tmp_path):
    array = stack(shape=(1, 2, *SHAPE))
    path = write_zarr(tmp_path / "a.zarr", array, 3, unit="nanometer", scale=(2000, 500, 400), axes="tczyx")
    with pytest.raises(DataError, match="2 channels"):
        open_volume(path)
    volume = open_volume(path, channel=1)
    assert volume.voxel_size == pytest.approx((2.0, 0.5, 0.4))
    np.testing.assert_array_equal(volume.lazy()[:, :, 3:5], array[0, 1, :, :, 3:5])
    unknown = write_zarr(tmp_path / "b.zarr", stack(), 2, unit=None, scale=(1, 1, 1))
    assert open_volume(unknown).voxel_size is None


def test_codecs_that_run_code_are_refused(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", stack("uint8"), 2)
    metadata = path / "0" / ".zarray"
    text = metadata.read_text().replace('"filters": null', '"filters": [{"id": "pickle", "protocol": 5}]')
    assert "pickle" in text
    metadata.write_text(text)
    with pytest.raises(DataError, match="'pickle'"):
        open_volume(path)


def test_ome_zarr_that_is_none(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(DataError, match=r"without \.zattrs or zarr\.json"):
        open_volume(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / ".zattrs").write_text("{ not json")
    with pytest.raises(DataError, match=r"a\.zarr/\.zattrs: is damaged: it is not JSON"):
        open_volume(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / ".zattrs").write_text('{"multiscales": [{"datasets": [{"path": "../../x"}]}]}')
    with pytest.raises(DataError, match="leads out of the folder"):
        open_volume(tmp_path / "a.zarr")


# --- finding, writing, arrays ---------------------------------------------------------------------------


def test_find_volumes_sorts_naturally_and_leaves_out_hidden_files(tmp_path):
    for name in ("img10.tif", "img2.TIF", "sub/b.ome.tiff", ".hidden.tif", "._img2.tif", ".cache/x.tif", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write_zarr(tmp_path / "z.zarr", stack("uint8"), 2)
    (tmp_path / "z.zarr" / "inside.tif").touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_volumes(tmp_path)]
    assert found == ["img2.TIF", "img10.tif", "sub/b.ome.tiff", "z.zarr"]
    assert find_volumes(tmp_path / "img10.tif") == [tmp_path / "img10.tif"]
    assert find_volumes(tmp_path / "z.zarr") == [tmp_path / "z.zarr"]


def test_find_volumes_says_what_is_there_instead(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        find_volumes(tmp_path / "no")
    with pytest.raises(DataError, match="empty folder"):
        find_volumes(tmp_path)
    for name in ("a.nd2", "b.nd2", "c.png"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"2 × \.nd2, 1 × \.png.*Export the images as TIFF"):
        find_volumes(tmp_path)
    with pytest.raises(DataError, match=r"c\.png: This is not a TIFF"):
        find_volumes(tmp_path / "c.png")


def test_find_volumes_survives_a_folder_that_links_to_itself(tmp_path):
    (tmp_path / "a.tif").touch()
    try:
        (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("links are not allowed here")
    assert find_volumes(tmp_path) == [tmp_path / "a.tif"]


def test_the_voxel_size_of_nnunet_is_read_with_a_warning(tmp_path):
    for name in ("case_0000.tif", "case.tif"):
        tifffile.imwrite(tmp_path / name, stack())
    sidecar = tmp_path / "case.json"
    sidecar.write_text('{"spacing": [2.0, 0.5, 0.4]}')
    for name in ("case_0000.tif", "case.tif"):
        volume = open_volume(tmp_path / name)
        assert volume.voxel_size == (2.0, 0.5, 0.4)
        assert [str(remark) for remark in volume.remarks] == [
            f"{name}: Its voxel size is taken from case.json, as 2 × 0.5 × 0.4 µm (z, y, x), although that file gives "
            "no unit. If it is in another unit, give the voxel size."
        ]
    for other in ('{"spacing": [1, "x", 2]}', "[1]", "{", '{"spacing": [1, 2]}', '{"spacing": [1, 0, 2]}'):
        sidecar.write_text(other)
        volume = open_volume(tmp_path / "case.tif")
        assert (volume.voxel_size, volume.remarks) == (None, ())


@pytest.mark.parametrize("ending", ["btf", "tf2", "tf8", "ome.btf", "TF8"])
def test_endings_of_bigtiff(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    tifffile.imwrite(path, stack(), bigtiff=True, metadata={"axes": "ZYX"})
    assert find_volumes(tmp_path) == [path]
    volume = open_volume(path)
    assert (volume.name, volume.shape) == ("a", SHAPE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_in_place_of_a_file_is_refused(tmp_path):
    for name in ("a.tif", "b.tif"):
        os.mkfifo(tmp_path / name)
    assert len(find_volumes(tmp_path)) == 2
    with pytest.raises(DataError, match=r"a\.tif: This is a pipe or a device"):
        open_volume(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("name", "stem"), [("a.tif", "a"), ("a.ome.TIF", "a"), ("a.b.tiff", "a.b"), ("x.ome.zarr", "x"), ("0", "0")]
)
def test_stem(name, stem):
    assert stem_of(Path(name)) == stem


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "float32", "int32", "uint32", "float64", "int64", ">u2"])
@pytest.mark.parametrize("voxel_size", [(1.75, 0.8, 0.8), (0.28371836501901143, 0.12678642066720086, 0.1), None])
def test_what_is_written_is_read_back(tmp_path, dtype, voxel_size):
    path, array = tmp_path / "out.tif", stack(dtype)
    write_volume(path, array, voxel_size)
    volume = open_volume(path)
    assert volume.voxel_size == (pytest.approx(voxel_size, rel=1e-6) if voxel_size else None)
    np.testing.assert_array_equal(volume.read(), array)
    assert [file.name for file in tmp_path.iterdir()] == ["out.tif"]


def test_writing_replaces_whole_files_only(tmp_path):
    path = tmp_path / "out.tif"
    write_volume(path, stack("uint8"), None)
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"out\.tif: cannot be written"):
        write_volume(path, np.full(SHAPE, 2**40), None)
    with pytest.raises(DataError, match=r"out\.tif"):
        write_volume(tmp_path / "no" / "out.tif", stack(), None)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_arrays_are_volumes():
    array = stack()
    volume = ArrayVolume("layer", array, (1.0, 0.5, 0.5))
    assert volume.path is None
    np.testing.assert_array_equal(volume.read(), array)
    np.testing.assert_array_equal(volume.lazy()[1:3, :, ::2], array[1:3, :, ::2])
    with pytest.raises(DataError, match="layer: This is a 2D"):
        ArrayVolume("layer", array[0], axes="YX")


def test_fingerprint_is_of_the_content(tmp_path):
    array = stack()
    tifffile.imwrite(tmp_path / "a.tif", array, compression="zlib")
    tifffile.imwrite(tmp_path / "b.tif", array, byteorder=">")
    one = fingerprint(open_volume(tmp_path / "a.tif"))
    assert one == fingerprint(open_volume(tmp_path / "b.tif")) == fingerprint(ArrayVolume("c", array))
    changed = array.copy()
    changed[0, 0, 0] += 1
    assert fingerprint(ArrayVolume("c", changed)) != one
    assert fingerprint(ArrayVolume("c", array.reshape(20, 12, 24))) != one


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".tif")
    write_volume(path, stack("uint8"))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with pytest.raises(DataError, match=r"too long for the disk\. Choose a shorter one"):
        write_volume(tmp_path / ("n" * 252 + ".tif"), stack("uint8"))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"no space left on the disk\. Free some"),
        (errno.EACCES, r"permission denied\. Ask"),
        (errno.EROFS, r"the disk is read-only\. Make"),
        (errno.ENOENT, "its folder does not exist"),
        (errno.EISDIR, "a folder has this name"),
        (errno.EIO, r"Check the disk"),
    ],
)
def test_a_disk_that_refuses_is_told_in_words(tmp_path, monkeypatch, number, message):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DataError, match=rf"out\.tif: cannot be written.*{message}") as caught:
        write_volume(tmp_path / "out.tif", stack("uint8"))
    assert "Errno" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_tifffile_does_not_talk_over_us(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "a.tif", stack(), imagej=True, metadata={"axes": "ZYX"}, compression="zlib")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        place = tif.pages.first.tags["XResolution"].offset
    content[place + 2 : place + 4] = struct.pack("<H", 200)  # a type that no TIFF knows
    (tmp_path / "a.tif").write_bytes(content)
    with caplog.at_level(logging.DEBUG):
        open_volume(tmp_path / "a.tif").read()
    assert not [record for record in caplog.records if record.name == "tifffile"]
    with caplog.at_level(logging.DEBUG), tifffile.TiffFile(tmp_path / "a.tif") as tif:
        tif.pages.first.tags.get("XResolution")
    assert [record for record in caplog.records if record.name == "tifffile"]  # others hear it as before


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    locked = tmp_path / "locked"
    (locked / "inner").mkdir(parents=True)
    stat = Path.stat

    def refuse(path, **options):
        if path.parent == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    for chosen in (locked, tmp_path):
        with pytest.raises(DataError, match=r"locked: The folder may not be read\. Ask"):
            find_volumes(chosen)
    with pytest.raises(DataError, match=r"locked: The folder may not be read\. Ask"):
        open_volume(locked / "a.tif")
