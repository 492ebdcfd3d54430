"""Where a checkpoint may come from: a path, a URL, an open file; and what a bad answer of the other side leads to."""

from __future__ import annotations

import errno
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from holdfast.errors import ConfigError, Corrupt, NotFound, StoreError
from holdfast.store import urls
from holdfast.store.opened import OpenFile
from making import overwrite
from sameness import same
from small_fits import Net as FitNet
from small_fits import fit, loaders, make_trainer, names
from small_modules import Net, saved


class _Files(BaseHTTPRequestHandler):
    """Serves what the test put into ``server.files``: bytes, or a function that answers by itself."""

    def do_GET(self):
        content = self.server.files.get(self.path)
        if callable(content):
            content(self)
        elif content is None:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def web():
    """A server on this machine; ``put(name, content)`` returns the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    server.files = {}
    thread = threading.Thread(target=server.serve_forever, args=[0.01])  # how soon shutdown() is seen
    thread.start()

    def put(name, content):
        server.files[f"/{name}"] = content
        return f"http://127.0.0.1:{server.server_port}/{name}"

    yield put
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def net():
    return Net(3)


@pytest.fixture(params=["ours", "foreign"])
def data(request, net, tmp_path):
    """A checkpoint's bytes."""
    path = tmp_path / "a.ckpt"
    if request.param == "ours":
        saved(path, net)
    else:
        torch.save({"state_dict": net.state_dict(), "hyper_parameters": {"width": 3}}, path)
    return path.read_bytes()


def test_a_path_may_be_given_in_any_way(data, net, tmp_path, monkeypatch):
    """As text, as a Path, relative, or as a file URL."""
    monkeypatch.chdir(tmp_path)
    for source in (str(tmp_path / "a.ckpt"), tmp_path / "a.ckpt", "a.ckpt", f"file://{tmp_path}/a.ckpt"):
        assert same(Net.load_from_checkpoint(source).state_dict(), net.state_dict())


def test_an_open_file_is_read_from_its_beginning_and_left_open(data, net, tmp_path):
    """A BytesIO, a file, and one that cannot be sought."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.left = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.left.readinto(buffer)

    with (tmp_path / "a.ckpt").open("rb") as file:
        for source in (io.BytesIO(data), file, Pipe()):
            if source.seekable():
                source.read(10)
            assert same(Net.load_from_checkpoint(source).state_dict(), net.state_dict())
            assert not source.closed


def test_what_is_open_for_text_or_no_file_is_refused():
    """Each in a sentence."""
    with pytest.raises(ConfigError, match="open for bytes"):
        Net.load_from_checkpoint(io.StringIO("a"))
    with pytest.raises(ConfigError, match="not as a list"):
        Net.load_from_checkpoint([1])


def test_a_url_is_fetched_and_read_like_a_file(data, net, web):
    """From http, with all that else may be said: where tensors go, arguments by position and by name."""
    url = web("a.ckpt", data)
    assert same(Net.load_from_checkpoint(url).state_dict(), net.state_dict())
    assert Net.load_from_checkpoint(url, "cpu", None, True, lr=9.0).hparams.lr == 9.0
    assert Net.load_from_checkpoint(url, torch.device("cpu"), weights_only=True).hparams.width == 3


def test_any_scheme_of_fsspec_is_read(data, net):
    """memory:// stands for them all; one that nothing here can open is said."""
    import fsspec

    with fsspec.open("memory://bucket/a.ckpt", "wb") as file:
        file.write(data)
    assert same(Net.load_from_checkpoint("memory://bucket/a.ckpt").state_dict(), net.state_dict())
    with pytest.raises(NotFound, match=r"memory://bucket/none\.ckpt"):
        Net.load_from_checkpoint("memory://bucket/none.ckpt")


def test_without_fsspec_the_sentence_says_what_to_install(monkeypatch):
    """Only http and files are read without it."""
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(ConfigError, match=r'not installed. Install it: pip install "holdfast\[remote\]"'):
        Net.load_from_checkpoint("memory://bucket/a.ckpt")


def _short(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"x" * 10)


def _broken(handler):
    handler.wfile.write(b"this is no http\r\n\r\n")


def _refusing(handler):
    handler.send_error(500)


@pytest.mark.parametrize(
    ("answer", "number", "says"),
    [
        (_short, errno.ENODATA, "ended after 10 of 1,000 bytes"),
        (_broken, errno.EIO, "BadStatusLine"),
        (_refusing, errno.EIO, "the server answers 500"),
    ],
)
def test_a_bad_answer_is_said(web, answer, number, says):
    """One that ends early, is none, or is an error: the operation, the URL and the reason."""
    url = web("a.ckpt", answer)
    with pytest.raises(StoreError, match=says) as caught:
        Net.load_from_checkpoint(url)
    assert (caught.value.errno, caught.value.operation, caught.value.path) == (number, "fetch", url)


def test_what_is_not_there_is_not_found(web):
    """As for a path; a server that is not there either is another matter."""
    with pytest.raises(NotFound, match="does not exist"):
        Net.load_from_checkpoint(web("a.ckpt", None))
    with pytest.raises(StoreError, match="cannot be reached"):
        Net.load_from_checkpoint("http://127.0.0.1:9/a.ckpt")


@pytest.mark.parametrize("told", [True, False])
def test_no_more_is_fetched_than_is_allowed(web, told):
    """Whether the server tells the size or not."""

    def answer(handler):
        handler.send_response(200)
        if told:
            handler.send_header("Content-Length", "2000")
        handler.end_headers()
        handler.wfile.write(b"x" * 2000)

    url = web("a.ckpt", answer)
    with pytest.raises(StoreError, match=r"1,999 .*may be fetched") as caught, urls.opened(url, limit=1999):
        pass
    assert caught.value.errno == errno.EFBIG
    with urls.opened(url, limit=2000) as file:
        assert file.read() == b"x" * 2000


def test_a_silent_server_is_given_up(web):
    """After the time that is allowed."""
    over = threading.Event()
    url = web("a.ckpt", lambda handler: over.wait())
    with pytest.raises(StoreError, match="fetch"), urls.opened(url, timeout=0.2):
        pass
    over.set()


def test_damage_is_found_on_the_way(net, web, tmp_path):
    """A flipped byte in what a server sends is an error that names the URL."""
    path = saved(tmp_path / "a.ckpt", net)
    at = path.read_bytes().index(net.state_dict()["body.weight"].numpy().tobytes())
    overwrite(path, at, b"\x00\x01")
    with pytest.raises(Corrupt, match=r"http://.*body\.weight has CRC-32"):
        Net.load_from_checkpoint(web("a.ckpt", path.read_bytes()))


def test_an_open_file_says_where_it_ends():
    """Bytes past its end are an error, as in every reader."""
    with OpenFile(io.BytesIO(b"abc"), "x") as reader:
        assert reader.read_at(1, 2) == b"bc"
        with pytest.raises(StoreError) as caught:
            reader.read_at(1, 3)
    assert caught.value.errno == errno.ENODATA


class Measured(FitNet):
    def test_step(self, batch, batch_idx):
        return self.validation_step(batch, batch_idx)


def test_a_fit_goes_on_from_a_url_and_tests_and_validates_with_its_weights(tmp_path, web):
    """It is a run of its own, with the checkpoint as its parent."""
    net = FitNet()
    fit(tmp_path / "a", net=net)
    (name,) = names(tmp_path / "a")
    url = web("last.ckpt", (tmp_path / "a" / name).read_bytes())
    trainer = fit(tmp_path / "b", max_epochs=3, ckpt_path=url)
    assert (trainer.global_step, names(tmp_path / "b")) == (12, ["checkpoints/epoch=2-step=12.ckpt"])
    for verb in ("validate", "test"):
        other = Measured()
        run = getattr(make_trainer(tmp_path / "c", enable_checkpointing=False), verb)
        run(other, loaders()[1], ckpt_path=url, verbose=False)
        assert same(other.state_dict(), net.state_dict())
