"""Downloads end in a checked cache or in one clear line. No test here reaches a network.

Files are served from a folder instead, and by servers of this machine that misbehave.
"""

import gzip
import hashlib
import http.client
import http.server
import io
import itertools
import os
import threading
import time
import tracemalloc
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from platformdirs import user_cache_path
from torch import Tensor

from flowvae_tutorial import InputError
from flowvae_tutorial.data import load
from flowvae_tutorial.storage import downloads

REAL = os.environ.get("FLOWVAE_TEST_DATA")
PARTS = ("train", "valid", "test")
ROWS = {"train": 5, "valid": 3, "test": 2}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FLOWVAE_DATA", str(folder))
    return folder


@pytest.fixture(autouse=True)
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder whose files every address leads to; a file that it lacks is no network."""
    folder = tmp_path / "served"
    folder.mkdir()

    def answer(request: urllib.request.Request, timeout: float) -> io.BytesIO:
        try:
            content = (folder / request.full_url.rpartition("/")[2]).read_bytes()
        except FileNotFoundError as error:
            raise urllib.error.URLError("no network") from error
        return io.BytesIO(content)

    monkeypatch.setattr("urllib.request.urlopen", answer)
    return folder


def message(call: Callable[[], object]) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


# --- where ------------------------------------------------------------------------------------


def test_the_cache_is_the_folder_of_the_environment_variable(cache: Path) -> None:
    assert downloads.cache_folder() == cache


@pytest.mark.parametrize("value", [None, ""])
def test_the_cache_is_the_platforms_otherwise(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWVAE_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("FLOWVAE_DATA", value)
    assert downloads.cache_folder() == user_cache_path("flowvae-tutorial")


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("FLOWVAE_DATA", "~/data")
    assert downloads.cache_folder() == tmp_path / "data"


@pytest.mark.skipif(os.name == "nt", reason="the home folder is found otherwise there")
@pytest.mark.parametrize("chosen", ["~/data", "~nobody-of-this-name/data", None])
def test_a_home_folder_that_is_not_to_be_found_is_one_line(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    def unknown(user: object) -> None:
        raise KeyError(user)

    for name in ("HOME", "XDG_CACHE_HOME", "FLOWVAE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    if chosen:
        monkeypatch.setenv("FLOWVAE_DATA", chosen)
    said = message(downloads.cache_folder)
    assert "set FLOWVAE_DATA" in said and (chosen or "the cache") in said


# --- MNIST and FashionMNIST -------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in the format of MNIST's files."""
    sizes = np.array(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def idx_files(train: int, test: int) -> dict[str, bytes]:
    """Pixel j of image i is i + j, its label 10 times less."""
    files = {}
    for name, n in (("train", train), ("t10k", test)):
        images = (np.arange(n)[:, None] + np.arange(784)) % 256
        files[f"{name}-images-idx3-ubyte"] = idx(images.reshape(n, 28, 28))
        files[f"{name}-labels-idx1-ubyte"] = idx(np.arange(n) // 10 % 256)
    return files


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


FILES = idx_files(50, 20)


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small files are those that are expected."""
    known = [
        (len(zipped(FILES[name])), hashlib.sha256(FILES[name]).hexdigest())
        for name in downloads.IDX_FILES
    ]
    monkeypatch.setattr(downloads, "MNIST_SUMS", {"MNIST": known, "FashionMNIST": known})


@pytest.fixture
def raw(cache: Path, sums: None) -> Path:
    """A cache with small files, unpacked."""
    folder = cache / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def assert_right(parts: list[tuple[Tensor, Tensor]]) -> None:
    for (pixels, labels), n in zip(parts, (50, 20), strict=True):
        assert (pixels.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert (pixels.min(), pixels.max()) == (0, 1)
        expected = (torch.arange(n)[:, None] + torch.arange(784)) % 256
        assert torch.equal(pixels * 255, expected.float())
        assert labels.tolist() == [i // 10 for i in range(n)]


@pytest.mark.usefixtures("raw")
def test_pixels_are_read_in_order_and_scaled_to_the_unit_interval() -> None:
    assert_right(downloads.mnist("MNIST"))


@pytest.mark.usefixtures("sums")
def test_downloaded_files_are_checked_unpacked_and_kept(cache: Path, served: Path) -> None:
    for name, content in FILES.items():
        (served / f"{name}.gz").write_bytes(zipped(content))
    assert_right(downloads.mnist("FashionMNIST"))
    unplug(served)
    assert_right(downloads.mnist("FashionMNIST"))
    kept = {file.name: file.read_bytes() for file in (cache / "FashionMNIST" / "raw").iterdir()}
    assert kept == FILES


@pytest.mark.parametrize("name", ["dynamic-mnist", "fixed-fashion"])
def test_no_network_is_one_line_with_folder_files_and_digits(cache: Path, name: str) -> None:
    said = message(lambda: load(name))
    kind = "MNIST" if name == "dynamic-mnist" else "FashionMNIST"
    assert said.startswith(kind)
    assert str(cache / kind / "raw") in said
    assert "idx .gz files" in said and "'digits'" in said


def test_a_download_of_other_content_is_refused(cache: Path, served: Path) -> None:
    for name, content in FILES.items():
        (served / f"{name}.gz").write_bytes(zipped(content))
    assert str(cache / "MNIST" / "raw") in message(lambda: load("dynamic-mnist"))
    assert not list(cache.rglob("*ubyte")), "nothing unchecked is kept"


def flipped(content: bytes) -> bytes:
    """One bit in each of ten bytes is another."""
    changed = bytearray(content)
    for place in range(len(content) - 1, len(content) - 11, -1):
        changed[place] ^= 1
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half a header": lambda content: content[:6],
    "header only": lambda content: content[:16],
    "half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "zeros after the header": lambda content: content[:16] + bytes(len(content) - 16),
    "backwards after the header": lambda content: content[:16] + content[:15:-1],
    "of flipped bits": flipped,
    "of an unknown type": lambda content: bytes([0, 0, 10, 3]) + content[4:],
    "of signed bytes": lambda content: bytes([0, 0, 9, 3]) + content[4:],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_a_file_of_other_content_is_one_line_that_names_it(
    raw: Path, file: str, damage: str
) -> None:
    path = raw / file
    path.write_bytes(DAMAGE[damage](FILES[file]))
    said = message(lambda: downloads.mnist("MNIST"))
    assert f"{path}: not MNIST's: its SHA-256 sum is another" in said and "delete" in said
    path.unlink()
    packed = raw / f"{file}.gz"
    packed.write_bytes(zipped(DAMAGE[damage](FILES[file])))
    assert f"{packed}: not MNIST's" in message(lambda: downloads.mnist("MNIST"))


@pytest.mark.parametrize("damage", ["half", "zeros", "of flipped bits"])
@pytest.mark.parametrize("beside", ["an intact .gz", "a damaged .gz", "no .gz"])
def test_a_damaged_file_is_unpacked_again_or_fetched(
    raw: Path, served: Path, damage: str, beside: str
) -> None:
    for file, content in FILES.items():
        (raw / file).write_bytes(DAMAGE[damage](content))
        packed = zipped(content)
        if beside != "no .gz":
            cut = len(packed) if beside == "an intact .gz" else len(packed) - 9
            (raw / f"{file}.gz").write_bytes(packed[:cut])
        if beside != "an intact .gz":
            (served / f"{file}.gz").write_bytes(packed)
    assert_right(downloads.mnist("MNIST"))
    assert {file: (raw / file).read_bytes() for file in FILES} == FILES


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "its SHA-256 sum is another"), (b"<html>", "gzip"), (zipped(b"0" * 99)[:-9], ".gz"),
     (zipped(b"0" * 99)[:12] + b"\xff" * 40, ".gz"), (zipped(b"0")[:-8] + b"12345678", "CRC")],
)  # fmt: skip
def test_a_gz_that_cannot_be_unpacked_is_one_line_that_names_it(
    raw: Path, content: bytes, why: str
) -> None:
    file = next(iter(FILES))
    (raw / file).unlink()
    packed = raw / f"{file}.gz"
    packed.write_bytes(content)
    said = message(lambda: downloads.mnist("MNIST"))
    assert f"{packed}: " in said and why in said


def test_a_folder_that_cannot_be_written_will_do_if_the_files_are_there(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, content in FILES.items():
        (raw / file).unlink()
        (raw / f"{file}.gz").write_bytes(zipped(content))

    def read_only(path: Path, content: bytes) -> Path:
        raise InputError(f"could not write {path} (Read-only file system)")

    monkeypatch.setattr(downloads, "write_whole", read_only)
    assert_right(downloads.mnist("MNIST"))


def test_a_download_that_cannot_be_kept_is_one_line(cache: Path, sums: None, served: Path) -> None:
    for name, content in FILES.items():
        (served / f"{name}.gz").write_bytes(zipped(content))
    cache.write_bytes(b"a file")
    assert "where a folder must" in message(lambda: downloads.mnist("MNIST"))
    assert cache.read_bytes() == b"a file"


def test_no_more_is_read_or_unpacked_than_a_file_can_hold(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "LARGEST", 50_000)
    file = next(iter(FILES))
    os.truncate(raw / file, 100_000_000_000)
    (raw / f"{file}.gz").write_bytes(zipped(bytes(20_000_000)))
    tracemalloc.start()
    said = message(lambda: downloads.mnist("MNIST"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said.count("its SHA-256 sum is another") == 2
    assert peak < 2_000_000


@pytest.mark.skipif(os.name == "nt", reason="there are no such pipes there")
def test_a_pipe_in_a_files_place_is_not_waited_for(raw: Path) -> None:
    for file, content in FILES.items():
        (raw / file).unlink()
        os.mkfifo(raw / file)
        (raw / f"{file}.gz").write_bytes(zipped(content))
    assert_right(downloads.mnist("MNIST"))


@pytest.mark.skipif(REAL is None, reason="FLOWVAE_TEST_DATA names no folder with the real files")
def test_the_real_files_of_one_data_set_do_not_pass_for_the_other(cache: Path) -> None:
    folder = cache / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in (Path(str(REAL)) / "FashionMNIST" / "raw").glob("*.gz"):
        (folder / file.name).symlink_to(file.resolve())
    assert "train-images-idx3-ubyte.gz: not MNIST's" in message(lambda: downloads.mnist("MNIST"))


# --- servers ----------------------------------------------------------------------------------


@pytest.fixture
def misbehave(monkeypatch: pytest.MonkeyPatch, sums: None) -> Iterator[Callable[[str, str], None]]:
    """A server of this machine: the mirrors are the two that are named by how they behave."""
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            how, name = self.path.strip("/").split("/")
            content = zipped(FILES[name.removesuffix(".gz")])
            if how == "silent":
                over.wait()
                return
            self.send_response(404 if how == "missing" else 200)
            if how == "short":
                self.send_header("Content-Length", str(len(content) + 1))
                content = content[:-20]
            self.end_headers()
            if how == "other":
                content = zipped(b"other")
            if how in ("endless", "slow"):
                for _ in itertools.count():
                    self.wfile.write(bytes(1 if how == "slow" else 1 << 16))
                    if over.wait(0.02 if how == "slow" else 0):
                        return
            elif how == "silent amid":
                self.wfile.write(content[:20])
                over.wait()
            elif how != "missing":
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            """Whoever has read enough breaks off."""

    def open_address(request: urllib.request.Request, timeout: float) -> Any:
        return opener.open(request, timeout=timeout)

    # No proxy of the environment's stands between.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    monkeypatch.setattr("urllib.request.urlopen", open_address)
    monkeypatch.setattr(downloads, "LARGEST", 100_000)
    monkeypatch.setattr(downloads, "SILENCE", 0.3)
    monkeypatch.setattr(downloads, "PATIENCE", 0.3)
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def mirrors(*how: str) -> None:
            base = f"http://127.0.0.1:{server.server_port}/"
            addresses = tuple(f"{base}{urllib.request.quote(h)}/" for h in how)
            monkeypatch.setattr(downloads, "MIRRORS", {"MNIST": addresses})

        yield mirrors
        over.set()
        server.shutdown()
        thread.join()


WAYS = {
    "silent": "timed out",
    "endless": "more than the",
    "slow": "not all there after",
    "missing": "HTTP Error 404",
    "short": "a damaged .gz",
    "other": "its SHA-256 sum is another",
}


@pytest.mark.parametrize("how", WAYS)
def test_a_mirror_that_fails_is_left_for_the_next(
    cache: Path, misbehave: Callable[[str, str], None], how: str
) -> None:
    misbehave(how, "good")
    begin = time.monotonic()
    assert_right(downloads.mnist("MNIST"))
    assert time.monotonic() - begin < 20
    misbehave(how, how)
    for file in FILES:
        (cache / "MNIST" / "raw" / file).unlink()
    tracemalloc.start()
    said = message(lambda: downloads.mnist("MNIST"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said.count(WAYS[how]) == 2, "of each mirror it says what was wrong"
    assert peak < 5_000_000
    assert not list(cache.rglob("*ubyte*"))


# --- static MNIST -----------------------------------------------------------------------------


@pytest.fixture
def published(served: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A few rows instead of the published files, in the published format, with sums to match."""
    random = np.random.default_rng(0)
    pixels = {part: random.integers(0, 2, (n, 784), dtype=np.uint8) for part, n in ROWS.items()}
    sums = {}
    for part, rows in pixels.items():
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows).encode()
        (served / f"binarized_mnist_{part}.amat").write_bytes(text)
        packed = hashlib.sha256(np.packbits(rows, axis=1).tobytes()).hexdigest()
        sums[part] = hashlib.md5(text).hexdigest(), packed
    monkeypatch.setattr(downloads, "STATIC_MNIST_SUMS", sums)
    return pixels


def unplug(served: Path) -> None:
    for file in served.iterdir():
        file.unlink()


def assert_published(pixels: dict[str, np.ndarray]) -> None:
    for found, part in zip(downloads.static_mnist(), PARTS, strict=True):
        assert found.dtype == torch.float32
        assert np.array_equal(found.numpy(), pixels[part])


def test_static_mnist_reads_every_pixel_of_the_text_files(
    cache: Path, published: dict[str, np.ndarray]
) -> None:
    assert_published(published)
    files = [file.name for file in (cache / "binarized_mnist").iterdir()]
    assert files == ["binarized_mnist.npz"], "the text is not kept, nor any half-written file"


def test_static_mnist_is_read_from_the_cache_the_second_time(
    cache: Path, published: dict[str, np.ndarray], served: Path
) -> None:
    assert_published(published)
    unplug(served)
    assert_published(published)


def test_text_files_put_into_the_cache_by_hand_are_used(
    cache: Path, published: dict[str, np.ndarray], served: Path
) -> None:
    cache.mkdir()
    served.rename(cache / "binarized_mnist")
    assert_published(published)


def other_pixels(content: bytes, path: Path) -> None:
    with np.load(path) as stored:
        packed = {part: stored[part].copy() for part in PARTS}
    packed["test"][0, 0] ^= 1
    np.savez(path, **packed)


SPOIL: dict[str, Callable[[bytes, Path], object]] = {
    "empty": lambda content, path: path.write_bytes(b""),
    "garbage": lambda content, path: path.write_bytes(b"\x80no archive" * 50),
    "truncated": lambda content, path: path.write_bytes(content[: len(content) // 2]),
    "a flipped byte": lambda content, path: path.write_bytes(
        content[:200] + bytes([content[200] ^ 1]) + content[201:]
    ),
    "one other pixel": other_pixels,
    "a part missing": lambda content, path: np.savez(path, train=np.zeros((5, 98), np.uint8)),
}


def test_no_more_of_the_cache_is_unpacked_than_it_can_hold(
    cache: Path, published: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "LARGEST", 50_000)
    path = cache / "binarized_mnist" / "binarized_mnist.npz"
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, **dict.fromkeys(PARTS, np.zeros((200_000, 98), np.uint8)))
    tracemalloc.start()
    assert_published(published)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_the_right_pixels_in_another_shape_are_read(
    cache: Path, published: dict[str, np.ndarray], served: Path
) -> None:
    unplug(served)
    path = cache / "binarized_mnist" / "binarized_mnist.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **{part: np.packbits(rows, axis=1).ravel() for part, rows in published.items()})
    assert_published(published)


@pytest.mark.parametrize("spoil", SPOIL)
def test_a_damaged_cache_is_fetched_again(
    cache: Path, published: dict[str, np.ndarray], spoil: str
) -> None:
    assert_published(published)
    path = cache / "binarized_mnist" / "binarized_mnist.npz"
    whole = path.read_bytes()
    SPOIL[spoil](whole, path)
    assert path.read_bytes() != whole
    assert_published(published)
    assert downloads._read_packed(path) is not None, "the cache is whole again"


class Malicious:
    """Pickled, it is a command to make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_cache_file_is_not_run(
    cache: Path, published: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = cache / "binarized_mnist" / "binarized_mnist.npz"
    path.parent.mkdir(parents=True)
    content = np.array([Malicious(tmp_path / "ran")], dtype=object)
    np.savez(path, allow_pickle=True, **dict.fromkeys(PARTS, content))
    assert_published(published)
    assert not (tmp_path / "ran").exists()


def test_no_network_for_static_mnist_is_one_line_with_folder_files_and_digits(
    cache: Path, published: dict[str, np.ndarray], served: Path
) -> None:
    unplug(served)
    said = message(lambda: load("static-mnist"))
    assert str(cache / "binarized_mnist") in said
    assert "binarized_mnist_train.amat, _valid.amat and _test.amat" in said
    assert "'digits'" in said


def test_a_text_file_of_other_content_is_refused_and_never_cached(
    cache: Path, published: dict[str, np.ndarray], served: Path
) -> None:
    (served / "binarized_mnist_valid.amat").write_text("<html>moved</html>")
    assert str(cache / "binarized_mnist") in message(downloads.static_mnist)
    assert not list(cache.rglob("*.npz"))


def test_a_server_that_breaks_off_is_one_line(
    cache: Path, published: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_off(*args: object, **kwargs: object) -> None:
        raise http.client.RemoteDisconnected("closed without a response")

    monkeypatch.setattr("urllib.request.urlopen", breaks_off)
    assert "closed without a response" in message(downloads.static_mnist)


@pytest.mark.parametrize("file", ["binarized_mnist.npz", "binarized_mnist_valid.amat"])
def test_a_full_disk_while_the_cache_is_written_is_one_line(
    cache: Path,
    published: dict[str, np.ndarray],
    full_disk: Callable[[str | None], None],
    file: str,
) -> None:
    full_disk(file)
    said = message(downloads.static_mnist)
    assert str(cache / "binarized_mnist" / file) in said and "make room" in said
    assert not list(cache.rglob("*.npz"))


@pytest.mark.skipif(REAL is None, reason="FLOWVAE_TEST_DATA names no folder with the real files")
def test_the_real_pixels_written_as_text_have_the_published_sums_and_are_read_back(
    cache: Path,
) -> None:
    packed = downloads._read_packed(Path(str(REAL)) / "binarized_mnist" / "binarized_mnist.npz")
    assert packed is not None
    rows = np.unpackbits(packed["valid"], axis=1)
    text = np.full((len(rows), 2 * 784), ord(" "), dtype=np.uint8)
    text[:, ::2] = rows + ord("0")
    text[:, -1] = ord("\n")
    cache.mkdir()
    (cache / "binarized_mnist_valid.amat").write_bytes(text.tobytes())
    # No address is asked: the file is there, with the published MD5 sum.
    assert np.array_equal(downloads._amat("valid", cache), packed["valid"])
