"""Model files from an enemy: whatever the bytes, an answer or ModelFileError, soon and small."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.errors import ModelFileError
from node.gguf_header import Tensor, read_gguf_header
from node.limits import GGUF_ARRAY_ELEMENTS_MAX, GGUF_HEADER_BYTES_MAX, GGUF_KEPT_BYTES_MAX
from node.model_file import read_model_file
from node.model_quantisation import quantisation_of
from tests.fakes.gguf_files import entries_of, entry, gguf, tensor, text

EXAMPLES = 20_000 if os.environ.get("RESULTITY_SOAK") else 250
SMALL = gguf()
MEMORY_BYTES_MAX = 16 << 20
"""A read buffer of 4 MiB, a window of 1 MiB, and what Python needs for a file of 500 bytes."""
HANG_S = 20.0
HOSTILE_NUMBERS = (0, 1, 7, 2**16, 2**24, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The small file with numbers overwritten, bytes cut out, doubled or put in."""
    data = bytearray(SMALL)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 4)):
            case 0:
                data[place : place + 8] = struct.pack("<Q", draw(st.sampled_from(HOSTILE_NUMBERS)))
            case 1:
                data[place : place + 4] = struct.pack("<I", draw(st.integers(0, 2**32 - 1)))
            case 2:
                del data[place : place + draw(st.integers(1, 40))]
            case 3:
                data[place:place] = data[place : place + draw(st.integers(1, 200))]
            case _:
                data[place:place] = draw(st.binary(max_size=16))
    return bytes(data)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "model.gguf"


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=mutated())
@example(data=SMALL)
def test_no_mutation_does_harm(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    started_s = time.monotonic()
    try:
        model = read_model_file(path)
    except ModelFileError:
        pass
    else:
        assert model.size_bytes == len(data)
        assert model.name.isprintable()
        assert model.quantisation
    assert time.monotonic() - started_s < HANG_S


@settings(max_examples=EXAMPLES // 5, deadline=None)
@given(data=mutated())
def test_no_mutation_takes_memory(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    tracemalloc.start()
    try:
        read_model_file(path)
    except ModelFileError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MEMORY_BYTES_MAX


def header_of(path: Path, head: bytes, size_bytes: int) -> None:
    """Read a header in a sparse file of this size: zeros from where `head` ends."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size_bytes)
    with path.open("rb") as file:
        read_gguf_header(file, size_bytes)


def array(key: str, kind: int, count: int, value: bytes = b"") -> bytes:
    return entry(key, 9, struct.pack("<IQ", kind, count) + value)


BYTES, STRINGS, DOUBLES = 0, 8, 12
HEAD = b"GGUF" + struct.pack("<IQQ", 3, 1, 4096)
BOMBS = {
    "too many elements": (array("a", STRINGS, GGUF_ARRAY_ELEMENTS_MAX + 1), "all arrays together"),
    "empty strings": (array("a", STRINGS, 300_000), "twice"),
    "many arrays": (
        b"".join(array(f"k{n}", BYTES, 10**6, bytes(10**6)) for n in range(5)),
        "all arrays together",
    ),
    "texts": (
        b"".join(entry(f"k{n}", 8, struct.pack("<Q", 1 << 20) + bytes(1 << 20)) for n in range(9)),
        f"more than {GGUF_KEPT_BYTES_MAX} bytes together",
    ),
    "one string": (array("a", STRINGS, 1, struct.pack("<Q", 2**62)), "at most"),
    "numbers": (array("a", DOUBLES, 3_999_999), "twice"),
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_promises_are_not_believed(path: Path, name: str) -> None:
    head, reason = BOMBS[name]
    started_s = time.monotonic()
    with pytest.raises(ModelFileError, match=reason):
        header_of(path, HEAD + head, GGUF_HEADER_BYTES_MAX * 2)
    assert time.monotonic() - started_s < HANG_S
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            header_of(path, HEAD + head, GGUF_HEADER_BYTES_MAX * 2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * GGUF_KEPT_BYTES_MAX + MEMORY_BYTES_MAX


def test_strings_over_the_window_are_counted_right() -> None:
    """Lengths that make strings begin, end and lie across the window of one MiB."""
    lengths = [5, (1 << 20) - 30, 3, 1 << 20, 0, 0, 700_000, 700_000, 1]
    value = struct.pack("<IQ", 8, len(lengths))
    value += b"".join(struct.pack("<Q", length) + b"x" * length for length in lengths)
    data = gguf(entries=[*entries_of(), entry("tokenizer.ggml.merges", 9, value)])
    header = read_gguf_header(io.BytesIO(data), len(data))
    place = header.metadata["tokenizer.ggml.merges"]
    assert place.end - place.start == sum(lengths) + 8 * len(lengths)  # type: ignore[union-attr]
    assert [tensor.name for tensor in header.tensors] == ["one", "two"]


def test_an_array_that_ends_with_the_file() -> None:
    for lengths in ([2**20], [5, 5]):
        value = struct.pack("<IQ", 8, len(lengths)) + b"".join(
            struct.pack("<Q", length) for length in lengths
        )
        data = gguf(entries=[entry("k", 9, value)], tensors=[], tensor_count=1, data=b"")
        with pytest.raises(ModelFileError, match=r"ends inside|at most|truncated|0 dimensions"):
            read_gguf_header(io.BytesIO(data), len(data))


def test_what_is_not_a_file_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_model_file(pipe)
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_model_file(Path("/dev/zero"))


def test_the_quantisation_is_what_the_tensors_are(path: Path) -> None:
    for label, shown in ((0, "F32"), (7, "F32"), (15, "F32"), (2**31, "F32")):
        path.write_bytes(gguf(file_type=label))
        assert read_model_file(path).quantisation == shown


@pytest.mark.parametrize(
    ("sizes", "label", "shown"),
    [
        ({12: 100, 14: 40, 0: 5}, 15, "Q4_K_M"),
        ({12: 100, 14: 40, 0: 5}, 14, "Q4_K_S"),
        ({12: 100, 14: 40}, 7, "Q4_K"),
        ({12: 100, 14: 40}, None, "Q4_K"),
        ({8: 100, 0: 99}, 7, "Q8_0"),
        ({2: 100, 8: 1}, 7, "Q4_0"),
        ({21: 10, 18: 5}, 22, "IQ3_XS"),
        ({39: 10}, 38, "MXFP4_MOE"),
        ({2: 10}, 38, "Q4_0"),
        ({10: 10}, "Q8_0", "Q2_K"),
        ({10: 10}, True, "Q2_K"),
    ],
)
def test_the_label_refines_and_never_lies(sizes: dict[int, int], label: object, shown: str) -> None:
    tensors = tuple(Tensor(str(kind), kind, (size,), 0, 0) for kind, size in sizes.items())
    assert quantisation_of(tensors, label) == shown


def test_tasks_and_licence(path: Path) -> None:
    path.write_bytes(gguf())
    model = read_model_file(path)
    assert (model.tasks, model.licence) == (("chat", "embeddings"), "")
    extra = [
        entry("llama.pooling_type", 4, struct.pack("<I", 1)),
        entry("general.license", 8, text("mit\x1b[0m")),
    ]
    path.write_bytes(gguf(entries=[*entries_of(), *extra]))
    model = read_model_file(path)
    assert (model.tasks, model.licence) == (("embeddings",), "mit[0m")
    path.write_bytes(gguf(entries=[*entries_of()], tensors=[tensor("one", 16, 0)]))
    assert read_model_file(path).parameter_count == 16
