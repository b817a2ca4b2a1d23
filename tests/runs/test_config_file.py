import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_celltrain.runs.config_file import (
    absolute_paths,
    dump_config,
    load_config,
    override,
    parse_config,
    setting_problems,
)
from napari_celltrain.values.config import AugmentationConfig, DataConfig, Elastic, Flip, RunConfig, TrainingConfig
from napari_celltrain.values.errors import ConfigError
from napari_celltrain.values.fields import all_fields

UNUSUAL = RunConfig(
    run_name="2026-11-22",
    data=DataConfig(images=Path("null"), labels=Path("a: b # ü"), voxel_size=(0.1, 1 / 3, 1e-7), ignore_value=-1),
    augmentation=AugmentationConfig(
        patches=False, patch_size=(64, 32, 8), augmentations=(Elastic(magnitude=(0.1, 1e-9)[::-1]), Flip())
    ),
    training=TrainingConfig(learning_rate=1e-5, gradient_clipping=None, max_minutes=0.1 + 0.2, device="cuda:1"),
)


@pytest.mark.parametrize("commented", [False, True])
@pytest.mark.parametrize("config", [RunConfig(), UNUSUAL, RunConfig(augmentation=AugmentationConfig(augmentations=()))])
def test_what_is_written_is_read_back_equal(tmp_path, config, commented):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config, commented), encoding="utf-8")
    assert load_config(path) == config


def test_comments_explain_every_field():
    text = " ".join(dump_config(RunConfig(), commented=True).replace("#", " ").split())
    for facts in all_fields().values():
        assert facts.help in text or facts.path.endswith(".name"), facts.path
    assert "(from 0.05 to 0.8)" in text
    assert "(percentile, zscore)" in text


def test_the_layout_of_a_list_of_augmentations():
    config = RunConfig(augmentation=AugmentationConfig(augmentations=(Flip(), Elastic())))
    text = dump_config(config)
    assert text[text.index("  augment: ") : text.index("training:")] == (
        "  augment: true\n"
        "  augmentations:\n"
        "    - name: flip\n"
        "      probability: 0.5\n"
        "    - name: elastic\n"
        "      probability: 0.1\n"
        "      spacing: 16\n"
        "      magnitude: [0.0, 3.0]\n"
    )
    lines = dump_config(config, commented=True).splitlines()
    place = lines.index("    - name: flip")
    assert lines[place - 3 : place - 1] == ["  augmentations:", ""]
    assert lines[place - 1].startswith("    # Mirror the patch")
    assert lines[place + 1].startswith("      # Probability of")
    assert lines[place + 2 : place + 4] == ["      probability: 0.5", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epochs: 0}", "training.epochs: must be a whole number from 1 to 100000, and it is 0."),
        ("training: {epochs: 1.5}", "training.epochs: must be a whole number"),
        ("data: {label_kind: cells}", "must be objects, foreground or classes, and it is 'cells'"),
        ("data: {chanel: 1}", "data.chanel: there is no such setting. Did you mean data.channel?"),
        ("augmentation: {patch_size: [64, 64]}", "three whole numbers from 8 to 1024 such as"),
        ("augmentation: {patch_size: [64, 64, 4]}", "such as [64, 64, 64], or empty, and one of them is 4."),
        ("augmentation: {augmentations: [{name: elast}]}", "Did you mean elastic?"),
        ("augmentation: {augmentations: [{probability: 1}]}", "needs its `name`"),
        ("augmentation: {augmentations: [{name: noise, std: -1}]}", "augmentations.noise.std: must be a number from 0"),
        ("augmentation: {augmentations: [{name: affine, scaling: [2, 1]}]}", "the first value of a range"),
        ("schema_version: 2", "Update napari-celltrain"),
        ("training: 3", "training: must be a block of settings"),
        ("just text", "it must hold settings"),
        ("a: [", "is not a configuration. Line"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("[" * 50, "nested too deeply"),
        ("training: {epochs: 1, epochs: 2}", "'epochs' is given twice"),
        ("data: !!python/object/apply:os.system [echo]", "is not a configuration"),
        ("x" * 2_000_000, "too large"),
    ],
)
def test_refusals_name_the_file_and_the_field(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert "mine.yaml" in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_config("training: {epochs: 0, loss: [1]}\ndata: {chanel: 2}", "mine.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "mine.yaml has 3 problems:"
    assert [line.split(":")[0] for line in lines[1:]] == ["  - data.chanel", "  - training.loss", "  - training.epochs"]


def test_a_missing_or_unreadable_file(tmp_path):
    with pytest.raises(ConfigError, match="There is no configuration"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="not text"):
        load_config(tmp_path / "binary.yaml")


class TestOverride:
    def test_takes_values_as_their_fields_do(self):
        config = override(
            RunConfig(),
            [
                "data.channel=1",
                "data.images=007",
                "run_name=1e3",
                "augmentation.patch_size=64,32,16",
                "data.voxel_size=[2, 0.5, 0.5]",
                "training.learning_rate=1e-4",
                "training.gradient_clipping=null",
                "augmentation.augment=false",
                "training.device=cuda:1",
            ],
        )
        assert config.data.channel == 1
        assert config.data.images == Path("007")
        assert config.run_name == "1e3"
        assert config.augmentation.patch_size == (64, 32, 16)
        assert config.data.voxel_size == (2, 0.5, 0.5)
        assert config.training.learning_rate == 1e-4
        assert config.training.gradient_clipping is None
        assert config.augmentation.augment is False
        assert config.training.device == "cuda:1"

    def test_addresses_augmentations_by_name(self):
        changed = override(RunConfig(), ["augmentation.augmentations.elastic.probability=0.3"])
        before, after = (
            {spec.name: spec for spec in config.augmentation.augmentations} for config in (RunConfig(), changed)
        )
        assert after["elastic"].probability == 0.3
        assert {name for name in before if before[name] != after[name]} == {"elastic"}

    def test_adds_an_augmentation_that_was_left_out(self):
        config = RunConfig(augmentation=AugmentationConfig(augmentations=(Flip(),)))
        changed = override(config, ["augmentation.augmentations.elastic.spacing=32"])
        assert changed.augmentation.augmentations == (Flip(), Elastic(spacing=32))

    def test_replaces_the_list_of_augmentations(self):
        changed = override(RunConfig(), ["augmentation.augmentations=[{name: flip}]"])
        assert changed.augmentation.augmentations == (Flip(),)

    @pytest.mark.parametrize(
        ("assignment", "message"),
        [
            ("epochs=3", "Did you mean training.epochs?"),
            ("training.epoch=3", "Did you mean training.epochs?"),
            ("training.epochs", "must be KEY=VALUE"),
            ("training.epochs=", "must be a whole number"),
            ("training.epochs=[1", "must be a whole number"),
            ("augmentation.patch_size=64", "three whole numbers"),
            ("augmentation.augmentations.elastc.probability=1", "Did you mean augmentation.augmentations.elastic"),
        ],
    )
    def test_refuses(self, assignment, message):
        with pytest.raises(ConfigError) as caught:
            override(RunConfig(), [assignment])
        assert message in str(caught.value)

    def test_leaves_the_given_configuration_as_it_is(self):
        config = RunConfig()
        override(config, ["training.epochs=3"])
        assert config == RunConfig()

    def test_a_plain_value_in_place_of_a_section(self):
        with pytest.raises(ConfigError, match="block of settings"):
            override(
                RunConfig(),
                ["training=3", "training.epochs=4", "augmentation=1", "augmentation.augmentations.flip.probability=1"],
            )


def test_a_thousand_mistakes_are_counted_and_the_first_ones_explained() -> None:
    text = "\n".join(f"setting_{number}: 1" for number in range(1000))
    with pytest.raises(ConfigError, match="1000 settings are not right") as caught:
        parse_config(text, "c.yaml")
    assert len(caught.value.problems) == 21


def test_a_name_without_end_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="no such setting") as caught:
        parse_config(f"? {'images' * 10_000}\n: 1", "c.yaml")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "pipe", "file", "file/below", "/dev/null"])
def test_results_that_can_be_no_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    config = RunConfig(data=DataConfig(images=tmp_path, labels=tmp_path, results=tmp_path / name))
    [problem] = setting_problems(config)
    assert problem.where == "data.results"


def test_the_home_of_nobody_is_a_name() -> None:
    config = RunConfig(data=DataConfig(images=Path("~nobody-of-this-name/x"), labels=Path("l")))
    assert absolute_paths(config).data.images == Path("~nobody-of-this-name/x").absolute()


@given(
    st.binary(max_size=200)
    | st.text("abdeilmnrstuz_:.-#'\"[]{}!&*~0123456789 \n", max_size=120).map(str.encode)
    | st.tuples(st.sampled_from(sorted(all_fields())), st.text(max_size=20)).map(
        lambda pair: f"{pair[0].replace('.', ': {')}: {pair[1]}{'}' * pair[0].count('.')}".encode("utf-8", "replace")
    )
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_a_configuration_or_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with contextlib.suppress(ConfigError):
        load_config(tmp_path / "c.yaml")
