"""Model files: identity, and every way in which a file can be damaged or hostile."""

from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import ModelFileError
from node.gguf_header import read_gguf_header
from node.model_file import read_model_file
from tests.fakes.gguf_files import entry, gguf, tensor, text

MODEL = Path(__file__).resolve().parents[3] / "resultity" / "models" / "tiny-chat-q8_0.gguf"


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return path


def test_the_demo_model() -> None:
    progress: list[tuple[int, int]] = []
    model = read_model_file(MODEL, lambda done, size: progress.append((done, size)))
    assert model.digest == hashlib.sha256(MODEL.read_bytes()).digest()
    assert (model.name, model.version, model.architecture) == ("Tiny Chat", "1", "llama")
    assert (model.context_tokens, model.quantisation) == (1024, "Q8_0")
    assert model.parameter_count == 1_016_960
    assert model.chat_template is not None
    assert len(model.model_id) == 32
    assert progress[-1] == (model.size_bytes, model.size_bytes)
    assert progress == sorted(progress)


def test_identity_is_what_makes_the_answers(tmp_path: Path) -> None:
    base = gguf()
    first = read_model_file(write(tmp_path, base))
    renamed = read_model_file(write(tmp_path, base.replace(b"Small", b"Other")))
    assert renamed.name == "Other"
    assert renamed.model_id == first.model_id
    assert renamed.digest != first.digest
    for changed in (
        base.replace(b"{{ messages }}", b"{{ messages!}}"),
        base.replace(text("b"), text("c")),
        base[:-1] + b"\x01",
        base.replace(text("two"), text("owt")),
    ):
        assert read_model_file(write(tmp_path, changed)).model_id != first.model_id


def test_control_characters_stay_out_of_names(tmp_path: Path) -> None:
    path = write(tmp_path, gguf().replace(b"Small", b"\x1b[31m"))
    assert read_model_file(path).name == "[31m"


HUGE = struct.pack("<Q", 2**63)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends inside its magic"),
        (gguf(magic=b"GGML"), "not a GGUF file"),
        (gguf(version=1), "version 1"),
        (gguf(version=0x03000000), "version"),
        (gguf(tensor_count=2**40), "tensors"),
        (gguf(tensor_count=0), "tensors"),
        (gguf(entry_count=2**60), "metadata entries"),
        (gguf(entries=[HUGE]), "metadata key"),
        (gguf(entries=[entry("k", 8, HUGE)]), "at most"),
        (gguf(entries=[entry("k", 9, struct.pack("<IQ", 4, 2**62))]), "elements"),
        (gguf(entries=[entry("k", 9, struct.pack("<IQ", 9, 1))]), "unsupported type 9"),
        (gguf(entries=[entry("k", 13, b"")]), "unknown type 13"),
        (gguf(entries=[entry("k", 7, b"\x02")]), "truth value"),
        (gguf(entries=[entry("k", 0, b"\x02")] * 2), "twice"),
        (gguf(entries=[entry("general.alignment", 4, struct.pack("<I", 0))]), "alignment"),
        (gguf(entries=[]), "general.architecture"),
        (gguf(entries=[entry("general.architecture", 8, text("x"))]), "context_length"),
        (gguf(tensors=[tensor("t", 8, 0, kind=99)]), "unknown type 99"),
        (gguf(tensors=[tensor("t", 0, 0)]), "side of 0"),
        (gguf(tensors=[tensor("t", 33, 0, kind=8)]), "multiple of 32"),
        (gguf(tensors=[tensor("t", 8, 1)]), "not aligned"),
        (gguf(tensors=[tensor("t", 8, 0), tensor("u", 8, 0)]), "overlaps"),
        (gguf(tensors=[tensor("t", 8, 0), tensor("t", 8, 32)]), "twice"),
        (gguf(tensors=[tensor("t", 2**39, 0)]), "truncated"),
        (gguf(tensors=[text("t") + struct.pack("<I", 9)]), "9 dimensions"),
        (gguf()[:-1], "truncated"),
        (gguf()[:40], "truncated"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(ModelFileError, match=reason):
        read_model_file(write(tmp_path, data))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        read_model_file(tmp_path / "none.gguf")
    with pytest.raises(ModelFileError, match="directory"):
        read_model_file(tmp_path)


def read_header(data: bytes) -> None:
    try:
        read_gguf_header(io.BytesIO(data), len(data))
    except ModelFileError:
        pass


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=9)), min_size=1, max_size=4))
def test_mutated_headers_are_read_or_refused(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(gguf())
    for place, new in changes:
        data[place : place + len(new)] = new
    read_header(bytes(data))


@given(st.integers(0, 600))
def test_truncated_headers_are_refused(length: int) -> None:
    data = gguf()
    if length < len(data):
        with pytest.raises(ModelFileError):
            read_gguf_header(io.BytesIO(data[:length]), length)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError):
        read_gguf_header(io.BytesIO(data), len(data))
