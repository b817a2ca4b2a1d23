"""Files and texts from strangers: one sentence, soon, and in little memory."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from napari_celltrain.values.errors import ConfigError, DataError
from napari_celltrain.values.outside import (
    MAX_YAML_BYTES,
    kind_of,
    load_yaml,
    parse_json,
    read_bytes,
    read_json,
    read_record,
    read_text,
    yaml_scalar,
)


class Record(BaseModel):
    pid: int
    name: str = ""


class TestFiles:
    def test_what_is_at_a_path(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "loop").symlink_to("loop")
        kinds = [kind_of(tmp_path / name) for name in ("file", "pipe", "loop", "nothing", "x" * 300, "a\0b")]
        assert kinds == ["file", "other", None, None, None, None]
        assert kind_of(tmp_path) == "folder"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("nothing", "does not exist"),
            ("x" * 300, "name"),
            ("a\0b", "characters that no file name can have"),
            (".", "it is a folder"),
            ("pipe", "a pipe or a device"),
            ("/dev/zero", "a pipe or a device"),
        ],
    )
    def test_what_is_no_file_is_refused_without_waiting(self, name: str, message: str, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ConfigError, match=message) as caught:
            read_bytes(tmp_path / name, 10, ConfigError)
        assert caught.value.problems[0].code == "unreadable"
        assert len(str(caught.value)) < 500

    def test_a_limit_counts_bytes(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_bytes(b"0123456789")
        assert read_bytes(file, 10) == b"0123456789"
        with pytest.raises(DataError, match="at most 9 bytes"):
            read_bytes(file, 9)

    def test_text_loses_its_byte_order_mark(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_bytes(b"\xef\xbb\xbfa: \xc3\xa9")
        assert read_text(file) == "a: é"
        file.write_bytes(b"\xff\xfea")
        with pytest.raises(DataError, match="not text in UTF-8"):
            read_text(file)


class TestJson:
    @pytest.mark.parametrize("text", ['{"a": NaN}', "[-Infinity]", "[" * 100_000, "1" * 5000, "{", "", '"\\ud800'])
    def test_what_is_not_json_is_one_error(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"."):
            parse_json(text)
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match="not JSON"):
            read_json(tmp_path / "x.json")

    @pytest.mark.parametrize(
        ("content", "message"),
        [({"pid": "x"}, "pid"), ({}, "pid"), ([1], "the whole"), ({"pid": 1, "name": []}, "name")],
    )
    def test_a_record_of_other_types_is_damaged(self, content: object, message: str, tmp_path: Path) -> None:
        file = tmp_path / "x.json"
        file.write_text(json.dumps(content))
        with pytest.raises(DataError, match=rf"is damaged: {message}"):
            read_record(file, Record)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, content: bytes) -> None:
        with contextlib.suppress(ValueError):
            parse_json(content)


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1:1:1:1.5", "1:1:1:1.5"),
            ("2026-11-22", "2026-11-22"),
            ("=", "="),
            ("9" * 400, "9" * 400),
            ("0777", "0777"),
            ("-12", -12),
            ("1.5e-3", 0.0015),
            (".inf", math.inf),
            ("~", None),
            ("yes", True),
        ],
    )
    def test_plain_values(self, text: str, value: object) -> None:
        assert load_yaml(text) == value

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('!!int ""', "tags"),
            ("!!bool foo", "tags"),
            ("!!timestamp x", "tags"),
            ("!!map [a, b]", "tags"),
            ("!!python/object/apply:os.system [ls]", "tags"),
            ("a: &x 1\nb: *x", "aliases"),
            ("[" * 17 + "]" * 17, "nested too deeply"),
            ("a: 1\nb: 2\na: 3", "Line 3, column 1: 'a' is given twice"),
            ("? [a]\n: b", "a key must be a plain word"),
            ("\n".join(f"{n}:" for n in range(11_000)), "too many entries"),
            ("a" * (MAX_YAML_BYTES + 1), "too large"),
            ("\0", "not valid YAML"),
        ],
    )
    def test_what_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_yaml(text)

    @given(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.from_regex(r"[-+0-9.:eE_xo~]{1,12}", fullmatch=True),
            st.integers(-(10**18), 10**18),
            st.floats(allow_nan=False),
            st.booleans(),
            st.none(),
            st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
        )
    )
    def test_what_is_written_is_read_back(self, value: object) -> None:
        assert load_yaml(f"a: {yaml_scalar(value)}") == {"a": value}

    @given(st.text(st.characters(codec="utf-8"), max_size=60) | st.text("!&*?:-[]{}, \n'\"#|>%@`ab1.", max_size=40))
    def test_any_text(self, text: str) -> None:
        with contextlib.suppress(ValueError):
            load_yaml(text)
