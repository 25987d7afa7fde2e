"""Downloads end in a checked cache or in one clear line. No test here reaches a network.

Files are served from a folder instead, so torchvision's own code fetches and checks them.
"""

import gzip
import hashlib
import http.client
import io
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from platformdirs import user_cache_path

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


class Response(io.BytesIO):
    """What torchvision needs of an answer from a server."""

    def __init__(self, content: bytes, url: str) -> None:
        super().__init__(content)
        self.length = len(content)
        self.url = url


@pytest.fixture(autouse=True)
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder whose files every address leads to; a file that it lacks is no network."""
    folder = tmp_path / "served"
    folder.mkdir()

    def answer(request: urllib.request.Request) -> Response:
        try:
            content = (folder / request.full_url.rpartition("/")[2]).read_bytes()
        except FileNotFoundError as error:
            raise urllib.error.URLError("no network") from error
        return Response(content, request.full_url)

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


# --- torchvision ------------------------------------------------------------------------------

# Run in a process of its own: an operator library cannot be declared twice in one.
SHIM = """
import json, sys
import torch
from flowvae_tutorial.storage import downloads

found = {"lazy": "torchvision" not in sys.modules}

def attempt(stub):
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    sys.path.insert(0, stub)
    try:
        return downloads._torchvision_datasets().SAYS
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        sys.path.remove(stub)

for name in sys.argv[1:]:
    key = name.rpartition("/")[2]
    found[key] = attempt(name)
    found[key + " declared"] = hasattr(torch.ops.torchvision, "nms")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | bool]:
    """What the shim does with a torchvision that imports, lacks operators, or is broken."""
    stubs = {
        "whole": "",
        "broken": "raise RuntimeError('libjpeg is missing')",
        "without operators": (
            "import torch\n"
            "for name in ('nms', 'qnms'):\n"
            "    if not hasattr(torch.ops.torchvision, name):\n"
            "        raise RuntimeError(f'operator torchvision::{name} does not exist')\n"
        ),
    }
    folder = tmp_path_factory.mktemp("stubs")
    for name, code in stubs.items():
        package = folder / name / "torchvision"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(code)
        (package / "datasets.py").write_text("SAYS = 'imported'")
    paths = [(folder / name).as_posix() for name in stubs]
    answer = subprocess.run(
        [sys.executable, "-c", SHIM, *paths],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return dict(json.loads(answer.stdout))


def test_importing_the_package_does_not_import_torchvision(shim: dict[str, str | bool]) -> None:
    assert shim["lazy"] is True


def test_a_torchvision_that_imports_is_left_alone(shim: dict[str, str | bool]) -> None:
    assert shim["whole"] == "imported"
    assert shim["whole declared"] is False


def test_a_torchvision_without_its_operators_is_imported_all_the_same(
    shim: dict[str, str | bool],
) -> None:
    assert shim["without operators"] == "imported"
    assert shim["without operators declared"] is True


def test_any_other_failure_of_torchvision_is_not_hidden(shim: dict[str, str | bool]) -> None:
    assert shim["broken"] == "RuntimeError: libjpeg is missing"
    assert shim["broken declared"] is False


def test_the_installed_torchvision_has_both_data_sets() -> None:
    datasets = downloads._torchvision_datasets()
    assert issubclass(datasets.FashionMNIST, datasets.MNIST)
    assert downloads._torchvision_datasets() is datasets


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


@pytest.fixture
def raw(cache: Path) -> Path:
    """A cache with small files, unpacked as torchvision leaves them."""
    folder = cache / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in idx_files(50, 20).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.usefixtures("raw")
def test_pixels_are_read_in_order_and_scaled_to_the_unit_interval() -> None:
    (train, labels), (test, test_labels) = downloads.mnist("MNIST")
    assert (train.shape, test.shape) == ((50, 784), (20, 784))
    assert (train.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (train.min(), train.max()) == (0, 1)
    expected = (torch.arange(50)[:, None] + torch.arange(784)) % 256
    assert torch.equal(train * 255, expected.float())
    assert labels.tolist() == [i // 10 for i in range(50)]
    assert test_labels.tolist() == [i // 10 for i in range(20)]


def test_downloaded_files_are_checked_unpacked_and_kept(
    cache: Path, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = []
    for name, content in idx_files(50, 20).items():
        packed = gzip.compress(content)
        (served / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(downloads._torchvision_datasets().FashionMNIST, "resources", resources)
    (train, _), _ = downloads.mnist("FashionMNIST")
    assert len(train) == 50
    unplug(served)
    (again, _), _ = downloads.mnist("FashionMNIST")
    assert torch.equal(train, again), "the second time nothing is fetched"


@pytest.mark.parametrize("name", ["dynamic-mnist", "fixed-fashion"])
def test_no_network_is_one_line_with_folder_files_and_digits(cache: Path, name: str) -> None:
    said = message(lambda: load(name))
    kind = "MNIST" if name == "dynamic-mnist" else "FashionMNIST"
    assert said.startswith(kind)
    assert str(cache / kind / "raw") in said
    assert "idx .gz files" in said and "'digits'" in said


def test_a_download_of_other_content_is_refused(cache: Path, served: Path) -> None:
    for name, content in idx_files(50, 20).items():
        (served / f"{name}.gz").write_bytes(gzip.compress(content))
    assert str(cache / "MNIST" / "raw") in message(lambda: load("dynamic-mnist"))
    assert not list(cache.rglob("*ubyte")), "nothing unchecked is unpacked"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half a header": lambda content: content[:6],
    "header only": lambda content: content[:16],
    "half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "of an unknown type": lambda content: bytes([0, 0, 10, 3]) + content[4:],
    "of signed bytes": lambda content: bytes([0, 0, 9, 3]) + content[4:],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte"])
def test_a_damaged_idx_file_is_one_line_that_names_the_folder(
    raw: Path, file: str, damage: str
) -> None:
    path = raw / file
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    said = message(lambda: downloads.mnist("MNIST"))
    assert str(raw) in said and "delete" in said


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


def test_a_full_disk_while_the_cache_is_written_is_one_line(
    cache: Path, published: dict[str, np.ndarray]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, a disk that is always full")
    (cache / "binarized_mnist").mkdir(parents=True)
    (cache / "binarized_mnist" / "binarized_mnist.npz.part").symlink_to("/dev/full")
    said = message(downloads.static_mnist)
    assert str(cache / "binarized_mnist") in said and "space" in said
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
    assert np.array_equal(downloads._download_amat("valid", cache), packed["valid"])
