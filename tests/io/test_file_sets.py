"""Volumes over several files: sets of OME-TIFF and Micro-Manager, companion files, and folders of single planes."""

import itertools
import json
import struct

import numpy as np
import pytest
import tifffile

from napari_celltrain.io.volumes import find_volumes, open_labels, open_volume
from napari_celltrain.io.zarr import is_zarr
from napari_celltrain.values.errors import DataError

SHAPE = (20, 24)
DEPTH = 6
SIZE = 'PhysicalSizeZ="2" PhysicalSizeY="0.5" PhysicalSizeX="500" PhysicalSizeXUnit="nm"'
VOXEL_SIZE = (2.0, 0.5, 0.5)


def ome_xml(files, lengths, own):
    """``files``: the planes (position, time point, channel, slice) of each by name; ``lengths``: of all, likewise."""
    positions, times, channels, slices = lengths
    images = []
    for position in range(positions):
        data = "".join(
            f'<TiffData IFD="{page}" FirstT="{t}" FirstC="{c}" FirstZ="{z}" PlaneCount="1">'
            f'<UUID FileName="{name}">urn:uuid:{name}</UUID></TiffData>'
            for name, planes in files.items()
            for page, (p, t, c, z) in enumerate(planes)
            if p == position
        )
        images.append(
            f'<Image ID="Image:{position}"><Pixels ID="Pixels:{position}" DimensionOrder="XYZCT" Type="uint16" '
            f'SizeX="24" SizeY="20" SizeZ="{slices}" SizeC="{channels}" SizeT="{times}" {SIZE}>{data}</Pixels></Image>'
        )
    return ome(own, "".join(images))


def ome(own, content):
    namespace = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return f'<?xml version="1.0"?><OME xmlns="{namespace}" UUID="urn:uuid:{own}">{content}</OME>'


def make_data(*lengths):
    return np.random.default_rng(0).integers(0, 200, (*lengths, *SHAPE)).astype("uint16")


def write_set(folder, files, lengths, **options):
    folder.mkdir(parents=True, exist_ok=True)
    data = make_data(*lengths)
    for name, planes in files.items():
        pages, description = np.stack([data[plane] for plane in planes]), ome_xml(files, lengths, name)
        tifffile.imwrite(
            folder / name, pages, description=description, metadata=None, photometric="minisblack", **options
        )
    return data


def planes_of(positions=(0,), times=(0,), channels=(0,), slices=range(DEPTH)):
    return list(itertools.product(positions, times, channels, slices))


def write_planes(folder, names, dtype="uint8"):
    folder.mkdir(parents=True, exist_ok=True)
    data = make_data(len(names)).astype(dtype)
    for name, plane in zip(names, data, strict=True):
        tifffile.imwrite(folder / name, plane)
    return data


# --- sets of OME-TIFF


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("part", ["positions", "times", "channels"])
def test_a_file_of_a_set_gives_only_its_own_volume(tmp_path, part, compression):
    number = ("positions", "times", "channels").index(part)
    lengths = [1, 1, 1, DEPTH]
    lengths[number] = 3
    data = write_set(
        tmp_path, {f"a_{i}.ome.tif": planes_of(**{part: [i]}) for i in range(3)}, lengths, compression=compression
    )
    assert len(find_volumes(tmp_path)) == 3
    for index in range(3):
        volume = open_volume(tmp_path / f"a_{index}.ome.tif")
        assert volume.voxel_size == VOXEL_SIZE
        np.testing.assert_array_equal(volume.read(), data.take(index, number)[0, 0])
        assert [remark.code for remark in volume.remarks] == (["part-of-channels"] if part == "channels" else [])
        if compression is None:
            np.testing.assert_array_equal(volume.lazy()[1:3, 4:8], volume.read()[1:3, 4:8])


def test_pages_of_a_file_of_a_set_lie_in_any_regular_order(tmp_path):
    orders = {
        "a.ome.tif": [(0, 0, c, z) for z in range(DEPTH) for c in range(2)],
        "b.ome.tif": planes_of([1], [0], [0, 1]),
    }
    data = write_set(tmp_path, orders, (2, 1, 2, DEPTH))
    for position, name in enumerate(orders):
        for channel in range(2):
            np.testing.assert_array_equal(
                open_volume(tmp_path / name, channel=channel).read(), data[position, 0, channel]
            )
    with pytest.raises(DataError, match="The volume has 2 channels"):
        open_volume(tmp_path / "a.ome.tif")


def test_a_set_survives_missing_and_renamed_files(tmp_path):
    files = {f"a_{i}.ome.tif": planes_of([i]) for i in range(3)}
    data = write_set(tmp_path, files, (3, 1, 1, DEPTH))
    (tmp_path / "a_0.ome.tif").unlink()
    (tmp_path / "a_1.ome.tif").rename(tmp_path / "other.tif")
    np.testing.assert_array_equal(open_volume(tmp_path / "a_2.ome.tif").read(), data[2, 0, 0])
    np.testing.assert_array_equal(open_volume(tmp_path / "other.tif").read(), data[1, 0, 0])


@pytest.mark.parametrize(
    ("planes", "lengths", "message"),
    [
        (
            planes_of(slices=[0]),
            (1, 1, 1, DEPTH),
            "holds only 1 of the 6 planes of a volume; other files hold the rest",
        ),
        (planes_of(slices=range(4)), (1, 1, 1, DEPTH), "holds only 4 of the 6 planes"),
        (planes_of([0, 1]), (3, 1, 1, DEPTH), "holds 2 separate volumes"),
        (planes_of(times=[0, 1]), (1, 3, 1, DEPTH), "time series of 2 time points"),
        (planes_of(channels=[0, 1])[:-1], (1, 1, 3, DEPTH), "no complete series"),
    ],
)
def test_a_file_that_is_no_volume_by_itself_is_refused(tmp_path, planes, lengths, message):
    rest = [plane for plane in itertools.product(*map(range, lengths)) if plane not in planes]
    write_set(tmp_path, {"a.ome.tif": planes, "b.ome.tif": rest}, lengths)
    with pytest.raises(DataError, match=rf"a\.ome\.tif: .*{message}"):
        open_volume(tmp_path / "a.ome.tif")


def test_a_companion_file_says_what_the_planes_are(tmp_path):
    files = {f"a_{i}.ome.tif": planes_of([i]) for i in range(2)} | {"plain.tif": planes_of([2])}
    companion = tmp_path / "a.companion.ome"
    companion.write_text(ome_xml(files, (3, 1, 1, DEPTH), "companion"), encoding="utf-8")
    data = make_data(3, DEPTH)
    link = f'<BinaryOnly MetadataFile="{companion.name}" UUID="urn:uuid:companion"/>'
    for index, name in enumerate(files):
        description = None if name == "plain.tif" else ome(name, link)
        tifffile.imwrite(tmp_path / name, data[index], description=description, metadata=None)
        volume = open_volume(tmp_path / name)
        assert (volume.voxel_size, volume.remarks) == (VOXEL_SIZE, ())
        np.testing.assert_array_equal(volume.read(), data[index])
    companion.unlink()
    volume = open_volume(tmp_path / "a_0.ome.tif")
    assert volume.voxel_size is None
    assert [str(remark) for remark in volume.remarks] == [
        "a_0.ome.tif: Its voxel size is in a.companion.ome, which cannot be read. Copy that file into the same folder, "
        "or give the voxel size."
    ]
    assert not open_volume(tmp_path / "a_0.ome.tif", voxel_size=(1, 1, 1)).remarks


# --- Micro-Manager


def write_micromanager(path, planes, data, **summary):
    """As its files of stacks are: an index of all planes behind the header, and JSON in a tag of each page."""
    summary = {"MicroManagerVersion": "2.0", "Frames": 1, "Positions": 1, "z-step_um": 2, "PixelSize_um": 0.5} | summary
    encoded = json.dumps(summary).encode()
    text = b'{"a": 0}'
    body, index = text, []
    start = 40 + len(encoded) + len(encoded) % 2
    size = 2 * SHAPE[0] * SHAPE[1]
    for number, (p, t, c, z) in enumerate(planes):
        offset = start + len(body)
        follows = offset + 162 + size if number < len(planes) - 1 else 0
        tags = [(254, 4, 0), (256, 4, 24), (257, 4, 20), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, offset + 162)]
        tags += [(277, 3, 1), (278, 4, 20), (279, 4, size), (284, 3, 1), (296, 3, 1)]
        entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
        entries += struct.pack("<HHII", 51123, 2, len(text), start)
        body += struct.pack("<H", 13) + entries + struct.pack("<I", follows) + data[p, t, c, z].tobytes()
        index.append((c, z, t, p, offset))
    header = b"II*\0" + struct.pack(
        "<9I", start + len(text), 54773648, start + len(body), 0, 0, 0, 0, 2355492, len(encoded)
    )
    table = struct.pack("<II", 3453623, len(index)) + np.array(index, "<u4").tobytes()
    path.write_bytes((header + encoded).ljust(start, b" ") + body + table)


def test_micro_manager(tmp_path):
    data, lengths = make_data(2, 1, 2, DEPTH), {"Positions": 2, "Channels": 2, "Slices": DEPTH}
    for position in range(2):
        planes = [(position, 0, c, z) for z in range(DEPTH) for c in range(2)]
        write_micromanager(tmp_path / f"a_MMStack_Pos{position}.ome.tif", planes, data, **lengths)
    for position in range(2):
        volume = open_volume(tmp_path / f"a_MMStack_Pos{position}.ome.tif", channel=1)
        assert volume.voxel_size == VOXEL_SIZE
        np.testing.assert_array_equal(volume.read(), data[position, 0, 1])


def test_micro_manager_in_one_file_and_ended_early(tmp_path):
    data, path = make_data(1, 1, 1, DEPTH), tmp_path / "a_MMStack.ome.tif"
    write_micromanager(path, planes_of(), data, Slices=DEPTH)
    np.testing.assert_array_equal(open_volume(path).read(), data[0, 0, 0])
    write_micromanager(path, planes_of(slices=range(4)), data, Slices=DEPTH)
    np.testing.assert_array_equal(open_volume(path).read(), data[0, 0, 0, :4])
    write_micromanager(tmp_path / "a_MMStack_1.ome.tif", planes_of(slices=[4, 5]), data, Slices=DEPTH)
    for name in ("a_MMStack.ome.tif", "a_MMStack_1.ome.tif"):
        with pytest.raises(DataError, match="of the 6 planes of a volume; other files hold the rest"):
            open_volume(tmp_path / name)


# --- folders of single planes


@pytest.mark.parametrize(
    "names",
    [
        [f"img_{number}.tif" for number in range(12)],
        [f"exp2_z{number:03}_raw.tif" for number in range(7, 19)],
        [f"{number}.btf" for number in range(1, 13)],
    ],
)
def test_numbered_planes_are_one_volume(tmp_path, names):
    data = write_planes(tmp_path / "cell.1", names)
    assert find_volumes(tmp_path) == [tmp_path / "cell.1"] == find_volumes(tmp_path / "cell.1")
    volume = open_volume(tmp_path / "cell.1")
    assert (volume.name, volume.shape, volume.dtype) == ("cell.1", (12, *SHAPE), np.dtype("uint8"))
    assert [str(remark) for remark in volume.remarks] == [
        "cell.1: Its 12 files are taken as the planes of one volume. If they are separate images, they cannot be used: "
        "CellTrain needs 3D volumes."
    ]
    np.testing.assert_array_equal(volume.read(), data)
    np.testing.assert_array_equal(volume.lazy()[2:5, 3:9, 1:4], data[2:5, 3:9, 1:4])
    np.testing.assert_array_equal(open_labels(tmp_path / "cell.1", axes="ZYX").read(), data)
    assert not is_zarr(tmp_path / "cell.1")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["z0.tif", "z2.tif", "z3.tif"], "have gaps: number 1 is missing"),
        (["a.tif", "b.tif", "c.tif"], "are not told apart by one number in their names"),
        (["c0z0.tif", "c0z1.tif", "c1z0.tif", "c1z1.tif"], "are not told apart by one number in their names"),
        (["z1.tif", "z01.tif", "z2.tif"], "have numbers that occur twice"),
        (["t0.tif", "t1.tif"], "are numbered as time points"),
        (["exp_time-1.tif", "exp_time-2.tif"], "are numbered as time points"),
    ],
)
def test_planes_that_are_no_volume_are_one_sentence(tmp_path, names, reason):
    write_planes(tmp_path / "cell", names)
    assert find_volumes(tmp_path) == [tmp_path / "cell"]
    message = f"cell: The folder holds {len(names)} single planes \\(2D images\\), which {reason}"
    with pytest.raises(DataError, match=message):
        open_volume(tmp_path / "cell")


def test_planes_of_other_sizes_and_types_are_no_volume(tmp_path):
    write_planes(tmp_path, ["z0.tif", "z1.tif"])
    write_planes(tmp_path, ["z2.tif"], "uint16")
    with pytest.raises(DataError, match=r"3 single planes .* differ in size or type"):
        open_volume(tmp_path)


def test_planes_beside_volumes_are_files_of_their_own(tmp_path):
    write_planes(tmp_path, ["z0.tif", "z1.tif"])
    tifffile.imwrite(tmp_path / "volume.tif", make_data(DEPTH))
    assert [path.name for path in find_volumes(tmp_path)] == ["volume.tif", "z0.tif", "z1.tif"]


def test_planes_of_a_set_are_one_volume_by_their_metadata(tmp_path):
    files = {
        f"{'abcdefghijkl'[-1 - z * 2 - c]}.ome.tif": planes_of(channels=[c], slices=[z])
        for z in range(DEPTH)
        for c in (0, 1)
    }
    data = write_set(tmp_path / "cell", files, (1, 1, 2, DEPTH))
    assert find_volumes(tmp_path) == [tmp_path / "cell"]
    volumes = [open_volume(tmp_path / "cell", channel=channel) for channel in (0, 1)]
    for channel, volume in enumerate(volumes):
        assert volume.voxel_size == VOXEL_SIZE
        np.testing.assert_array_equal(volume.read(), data[0, 0, channel])
    assert volumes[0].key != volumes[1].key
    with pytest.raises(DataError, match="cell: The volume has 2 channels"):
        open_volume(tmp_path / "cell")
    with pytest.raises(DataError, match="no channel 2"):
        open_volume(tmp_path / "cell", channel=2)
    (tmp_path / "cell" / "a.ome.tif").unlink()  # the last slice of the second channel
    with pytest.raises(DataError, match="have gaps"):
        open_volume(tmp_path / "cell", channel=1)


def test_planes_of_several_positions_are_no_volume(tmp_path):
    files = {f"p{p}z{z}.ome.tif": planes_of([p], slices=[z]) for p in range(2) for z in range(DEPTH)}
    write_set(tmp_path / "cell", files, (2, 1, 1, DEPTH))
    with pytest.raises(DataError, match=r"12 single planes .* several positions or time points"):
        open_volume(tmp_path / "cell")
