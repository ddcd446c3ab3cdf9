"""Hub ids from a cache and a hub that the test builds, and files inside installed packages."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.checkpoint_files import LLAMA, random_arrays, write_directory, write_gguf
from vindex.checkpoint import open_checkpoint
from vindex.checkpoint._hub import HubRef, parse_hub_ref
from vindex.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", HubRef("org/name")),
        ("hf://org/name", HubRef("org/name")),
        ("org/name@main", HubRef("org/name", None, "main")),
        ("org/Llama-3.2-1B@refs/pr/1", HubRef("org/Llama-3.2-1B", None, "refs/pr/1")),
        ("org/name/q/x.gguf@v1", HubRef("org/name", "q/x.gguf", "v1")),
        ("name", None),
        ("/abs/name", None),
        ("./rel/name", None),
        ("org/../name", None),
        ("org/na me", None),
        ("örg/name", None),
        ("https://x/y", None),
    ],
)
def test_hub_references(text: str, expected: HubRef | None) -> None:
    assert parse_hub_ref(text) == expected


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory in place of the user's."""
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def fill_cache(cache: Path, source: Path, revision: str = "main") -> Path:
    """Lay a directory out as huggingface_hub caches it: blobs by digest, links to them."""
    repo = cache / "models--org--tiny"
    snapshot = repo / "snapshots" / COMMIT
    for directory in (repo / "refs", repo / "blobs", snapshot):
        directory.mkdir(parents=True)
    (repo / "refs" / revision).write_text(COMMIT)
    for path in source.iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (repo / "blobs" / digest).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs", digest))
    return snapshot


def test_a_cached_model_opens_without_a_network(hub_cache: Path, tmp_path: Path) -> None:
    source = write_directory(tmp_path / "source", LLAMA, random_arrays(LLAMA))
    fill_cache(hub_cache, source)
    weights = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    for ref in ("org/tiny", "hf://org/tiny", "org/tiny@main", f"org/tiny@{COMMIT}"):
        with open_checkpoint(ref) as checkpoint:
            assert checkpoint.name == ref
            assert len(checkpoint.names()) == 21
            assert checkpoint.provenance.repo == "org/tiny"
            assert checkpoint.provenance.revision == COMMIT
            assert checkpoint.provenance.sha256["model.safetensors"] == weights


def test_a_cached_gguf_file(hub_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    write_gguf(tmp_path / "source" / "x.gguf", LLAMA, random_arrays(LLAMA))
    fill_cache(hub_cache, tmp_path / "source")
    with open_checkpoint("org/tiny/x.gguf") as checkpoint:
        assert checkpoint.config["model_type"] == "llama"


@pytest.mark.parametrize("missing", ["everything", "weights"])
def test_offline_without_the_model_says_how_to_get_it(
    hub_cache: Path, tmp_path: Path, missing: str
) -> None:
    if missing == "weights":
        source = write_directory(tmp_path / "source", LLAMA, {})
        (source / "model.safetensors").unlink()
        fill_cache(hub_cache, source)
    with pytest.raises(CheckpointError, match="is not in the local cache, and the hub") as caught:
        open_checkpoint("org/tiny")
    assert "hf download org/tiny --local-dir DIR" in (caught.value.hint or "")


def test_an_existing_path_wins_over_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_directory(tmp_path / "org" / "tiny", LLAMA, random_arrays(LLAMA))
    monkeypatch.chdir(tmp_path)
    with open_checkpoint("org/tiny") as checkpoint:
        assert checkpoint.provenance.repo is None


class Hub(http.server.ThreadingHTTPServer):
    """Enough of the hub's HTTP interface to download one repository."""

    def __init__(self, source: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.source = source
        self.requested: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        files = sorted(self.server.source.iterdir())
        if path.startswith("/org/tiny/resolve/"):
            file = self.server.source / path.rsplit("/", 1)[1]
            if body:
                self.server.requested.append(file.name)
            data = file.read_bytes()
            etag = hashlib.sha256(data).hexdigest()
            self.reply(200, data, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        elif path.startswith("/api/models/org/tiny/tree/"):
            tree = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40}
                for f in files
            ]
            self.reply(200, json.dumps(tree).encode(), body, {"Content-Type": "application/json"})
        elif path.startswith("/api/models/org/tiny"):
            siblings = [{"rfilename": f.name, "size": f.stat().st_size} for f in files]
            info = {"id": "org/tiny", "sha": COMMIT, "siblings": siblings}
            self.reply(200, json.dumps(info).encode(), body, {"Content-Type": "application/json"})
        else:
            self.reply(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def reply(self, code: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    source = write_directory(tmp_path / "source", LLAMA, random_arrays(LLAMA))
    (source / "pytorch_model.bin").write_bytes(b"not wanted")
    (source / "README.md").write_text("not wanted")
    with Hub(source) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


CLIENT = """
import json, sys
from vindex.checkpoint import open_checkpoint
from vindex.errors import VindexError

class Progress:
    phases, advanced, stop = [], 0, False
    def phase(self, name, total, unit="B"):
        self.phases.append([name, total])
    def advance(self, amount):
        self.advanced += amount
    def check(self):
        if self.stop:
            raise KeyError("cancelled by the caller")

progress = Progress()
progress.stop = "--cancel" in sys.argv
try:
    with open_checkpoint(sys.argv[1], progress=progress) as checkpoint:
        result = {"tensors": len(checkpoint.names()), "revision": checkpoint.provenance.revision}
except VindexError as error:
    result = {"error": str(error), "hint": error.hint}
except KeyError as error:
    result = {"cancelled": error.args[0]}
print(json.dumps({**result, "phases": progress.phases, "advanced": progress.advanced}))
"""


def ask(server: Hub, cache: Path, *arguments: str) -> dict[str, object]:
    """Open a reference in a fresh process whose hub is the test's."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""  # no progress bar of the library's own
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_download_fetches_only_what_is_needed_and_only_once(hub: Hub, tmp_path: Path) -> None:
    size = sum((hub.source / name).stat().st_size for name in ("config.json", "model.safetensors"))
    expected = {"tensors": 21, "revision": COMMIT}
    assert ask(hub, tmp_path / "cache", "org/tiny") == {
        **expected,
        "phases": [["download org/tiny", size]],
        "advanced": size,
    }
    assert sorted(hub.requested) == ["config.json", "model.safetensors"]
    assert ask(hub, tmp_path / "cache", "org/tiny") == {**expected, "phases": [], "advanced": 0}
    assert sorted(hub.requested) == ["config.json", "model.safetensors"]


def test_download_can_be_cancelled(hub: Hub, tmp_path: Path) -> None:
    assert "cancelled" in ask(hub, tmp_path / "cache", "org/tiny", "--cancel")


def test_unknown_repositories_and_files(hub: Hub, tmp_path: Path) -> None:
    answer = ask(hub, tmp_path / "cache", "org/nothing")
    assert answer["error"] == "the hub has no model org/nothing, or it is private"
    answer = ask(hub, tmp_path / "cache", "org/tiny/x.gguf")
    assert answer["error"] == "org/tiny has no file 'x.gguf'"


@pytest.mark.parametrize(
    ("only", "text", "hint"),
    [
        ("pytorch_model.bin", "holds only pickles", "save_pretrained"),
        ("q4.gguf", "holds GGUF files and no safetensors", '"org/tiny/q4.gguf"'),
    ],
)
def test_repositories_without_safetensors(
    hub: Hub, tmp_path: Path, only: str, text: str, hint: str
) -> None:
    for path in hub.source.iterdir():
        path.unlink()
    (hub.source / only).write_bytes(b"x")
    answer = ask(hub, tmp_path / "cache", "org/tiny")
    assert text in str(answer["error"])
    assert hint in str(answer["hint"])
    assert hub.requested == []


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with a model; importing it would fail the test."""
    folder = tmp_path / "site" / "tiny_model"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('opening must not import')")
    write_gguf(folder / "data" / "m.gguf", LLAMA, random_arrays(LLAMA))
    info = tmp_path / "site" / "tiny_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-dist\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("tiny_model\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


@pytest.mark.parametrize("name", ["tiny_model", "tiny-model", "tiny-dist"])
def test_a_file_inside_a_package(package: Path, name: str) -> None:
    with open_checkpoint(f"package:{name}/data/m.gguf") as checkpoint:
        assert checkpoint.name == f"package:{name}/data/m.gguf"
        assert len(checkpoint.names()) == 21


@pytest.mark.parametrize(
    ("ref", "text"),
    [
        ("package:tiny_model/other.gguf", "has no file 'other.gguf'"),
        ("package:tiny_model", "names no file"),
        ("package:tiny_model/", "names no file"),
        ("package:tiny_model/../../x.gguf", "names no file"),
        ("package:tiny_model//etc/passwd", "names no file"),
        ("package:no_such_package_x/m.gguf", "is not installed"),
        ("package:/m.gguf", "names no package"),
        ("package:a b/m.gguf", "names no package"),
        ("package:tiny_model/__init__.py", "is neither a GGUF nor a safetensors file"),
    ],
)
def test_package_references_to_nothing(package: Path, ref: str, text: str) -> None:
    with pytest.raises(CheckpointError, match=text) as caught:
        open_checkpoint(ref)
    if "other" in ref:
        assert caught.value.hint == "it has data/m.gguf"
