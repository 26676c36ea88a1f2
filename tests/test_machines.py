"""Other machines and working folders; what is written, kept, and asked of the network.

Here notebooks run in a kernel, as users and papermill run them, in a copy of the project. A few
checks run in the quick tests, all with --full.
"""

import ast
import ctypes
import http.client
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
import psutil
import pytest
import torch

import helpers
from course import LOSSES, PATHS, ROOT, code_cells, output_text, with_parameters

every_notebook = pytest.mark.parametrize("name", [path.name for path in PATHS])
PARTS = ("helpers.py", "requirements.txt", "README.md", "data", "notebooks")


@pytest.fixture
def project(tmp_path):
    """A copy of the course in a folder with spaces and accents."""
    folder = tmp_path / "mes études, été 2026"
    folder.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        options = {"ignore": shutil.ignore_patterns("output", "__pycache__", ".ipynb_checkpoints")}
        copy(ROOT / part, folder / part, **options if copy is shutil.copytree else {})
    return folder


def kernel_run(project, name, changes=None, folder="notebooks", **options):
    """Execute a notebook of `project` in a kernel, in quick mode, its working folder `folder`.

    Returns (the process, the executed notebook or None).
    """
    nb = nbformat.read(project / "notebooks" / name, as_version=4)
    home = project.parent / "home"
    home.mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY",
                                                            "MPLBACKEND", "PYTHONPATH")}
    env |= {"MAKEMORE_QUICK": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--stdin",
         "--stdout", "--ExecutePreprocessor.timeout=600"],
        input=nbformat.writes(with_parameters(nb, changes or {})), text=True, encoding="utf-8",
        capture_output=True, cwd=project / folder, env=env, check=False, **options)
    return done, nbformat.reads(done.stdout, as_version=4) if done.returncode == 0 else None


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def losses(nb):
    return [loss for cell in code_cells(nb) for loss in LOSSES.findall(output_text(cell))]


@pytest.mark.full
@every_notebook
def test_runs_in_a_folder_with_spaces_and_accents_and_leaves_no_trace(project, name):
    before = files(project)
    done, nb = kernel_run(project, name)
    assert nb, done.stderr[-3000:]
    after = files(project)
    assert set(before) <= set(after)
    others = [path for path, content in after.items() if before.get(path) != content]
    assert all(path.is_relative_to(project / "notebooks" / "output") for path in others), others


# JupyterLab and VS Code start a notebook in its own folder, papermill where it was called.
@pytest.mark.full
@pytest.mark.parametrize(("name", "folder"), [*((path.name, ".") for path in PATHS),
                                              ("03_flatten_consecutive.ipynb", "data")])
def test_runs_from_other_folders(project, name, folder):
    done, nb = kernel_run(project, name, {"pair_seeds": 1}, folder)
    assert nb, done.stderr[-3000:]


@pytest.mark.full
def test_papermill_takes_the_command_of_the_readme(project):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"^\.venv/bin/papermill (.*)$", readme, re.M)[1].split()
    subprocess.run([sys.executable, "-m", "papermill", *command], cwd=project, check=True,
                   capture_output=True, env=os.environ | {"MAKEMORE_QUICK": "1"})
    out = nbformat.read(project / "out.ipynb", as_version=4)
    text = "\n".join(map(output_text, code_cells(out)))
    assert "n_hidden is 256, not 128" in text


@pytest.mark.full
def test_from_outside_it_says_where_to_start(project):
    done, _ = kernel_run(project, "03_flatten_consecutive.ipynb", folder="..")
    assert done.returncode
    assert "start Jupyter in the project's folder" in done.stderr


# ------------------------------------------------------------------------ a read-only checkout


PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1                     # from Linux's own headers


@pytest.fixture
def nobody(project):
    """Options for a process that cannot write into the project, which is read-only by now."""
    for path in [project, *project.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    options = {}
    if os.getuid() == 0:                 # root may write anywhere, unless it gives up that right
        options["preexec_fn"] = lambda: ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)
    yield options
    for path in [project, *project.rglob("*")]:
        path.chmod(0o755)


@pytest.mark.full
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="file modes of Unix")
def test_a_read_only_checkout_says_what_could_not_be_kept(project, nobody):
    code = ("import helpers; helpers.save_json(helpers.OUTPUT / 'log_03.json', {}); "
            "print(len(helpers.load_words()))")
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True,
                          check=True, **nobody)
    assert done.stdout == ("log_03.json cannot be written (Permission denied): not kept for later "
                           "notebooks.\n32257\n")


@pytest.mark.full
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="file modes of Unix")
@every_notebook
def test_every_notebook_runs_in_a_read_only_checkout(project, nobody, name):
    done, nb = kernel_run(project, name, **nobody)
    assert nb, done.stderr[-3000:]
    if name.startswith("00"):
        text = "\n".join(map(output_text, code_cells(nb)))
        assert "results can be kept in notebooks/output: no" in text


# -------------------------------------------------------------------- one core, no screen, a GPU


@pytest.mark.full
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
@every_notebook
def test_runs_on_one_core(project, name):
    core = min(os.sched_getaffinity(0))
    done, nb = kernel_run(project, name, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    assert nb, done.stderr[-3000:]


@pytest.mark.full
def test_draws_without_a_screen(project):
    code = ("import helpers; helpers.use_style(); helpers.plot_losses({'a': [3.0, 2.0]}); "
            "import matplotlib.pyplot as plt; plt.savefig('picture.png')")
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY",
                                                            "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", code], cwd=project, env=env, check=True)
    assert (project / "picture.png").stat().st_size > 1000


@pytest.mark.parametrize("path", [
    pytest.param(path, id=path.stem, marks=[pytest.mark.full] * (path != PATHS[0]))
    for path in PATHS])
def test_a_gpu_is_not_used(path, run, monkeypatch, words_file):
    """A machine that claims to have one, and fails whoever moves something there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("the GPU was asked for"))
    # In a build of torch for GPUs the optimisers ask whether one is recording, whatever they train.
    monkeypatch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check",
                        lambda self: None)
    run(path, {"names_file": words_file(helpers.load_words()[::10]), "pair_seeds": 1, "workers": 1})


# ----------------------------------------------------------------------------- the same again


@pytest.mark.full
@pytest.mark.parametrize("name", ["03_flatten_consecutive.ipynb", "08_wavenet.ipynb"])
def test_two_at_once_do_not_disturb_each_other(project, name):
    _, alone = kernel_run(project, name)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: kernel_run(project, name)[1], range(2)))
    assert losses(alone)
    assert losses(both[0]) == losses(both[1]) == losses(alone)


@pytest.mark.full
def test_two_writers_leave_one_whole_file(tmp_path):
    """One reads all the while that two processes write the same file."""
    file = tmp_path / "row.json"
    code = ("import sys, helpers; from pathlib import Path\n"
            "for i in range(300): helpers.save_json(Path(sys.argv[1]), [int(sys.argv[2])] * 1000)")
    writers = [subprocess.Popen([sys.executable, "-c", code, file, str(i)], cwd=ROOT)
               for i in (1, 2)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if file.is_file():
            seen.add(file.read_text())
    assert [writer.returncode for writer in writers] == [0, 0]
    lengths = {len(ast.literal_eval(text)) for text in seen}
    assert lengths == {1000}
    assert [path.name for path in tmp_path.iterdir()] == ["row.json"]


# ------------------------------------------------------------------------------ many words


@pytest.mark.full
@every_notebook
def test_300_000_words_take_at_most_4_gigabytes(project, name, tmp_path):
    resource = pytest.importorskip("resource", reason="Windows keeps no such figure")
    rng, after = random.Random(0), {}
    for word in helpers.load_words():
        for a, b in itertools.pairwise(f".{word}."):
            after.setdefault(a, []).append(b)

    def made_up():
        word = rng.choice(after["."])
        while len(word) < 15 and (ch := rng.choice(after[word[-1]])) != ".":
            word += ch
        return word

    file = tmp_path / "many.txt"
    file.write_text("\n".join(made_up() for _ in range(300_000)))
    t0 = time.perf_counter()
    done, nb = kernel_run(project, name, {"names_file": str(file), "pair_seeds": 1})
    assert nb, done.stderr[-3000:]
    unit = 1 if sys.platform == "darwin" else 1024              # macOS counts in bytes
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e9
    print(f"{name}: {time.perf_counter() - t0:.0f} s, so far at most {peak:.2f} GB")
    assert peak < 4


# ------------------------------------------------------------------------------------ safety


def test_the_workflow_pins_its_actions_and_may_only_read():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        uses = re.findall(r"uses: (\S+)", text)
        assert uses
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action) for action in uses), uses
        assert re.findall(r"^ *permissions:\n((?: +.*\n)+)", text, re.M) == ["  contents: read\n"]
        assert text.count("persist-credentials: false") == text.count("actions/checkout@")


UNSAFE = re.compile(
    r"(_?pickle|dill|cloudpickle|marshal|shelve|joblib|builtins)(\..+)?|eval|exec|__import__"
    r"|(.+\.)?(read_pickle|Unpickler)|(torch\.(.+\.)?|jit\.|serialization\.)load|torch\.\*"
    r"|(http|urllib3?|requests|httpx|aiohttp|ftplib|(torch\.)?hub)(\..+)?")


def dangers(text):
    """What in a source may run code from a file, or fetch one: imports, attributes and names."""
    names, nodes = set(), list(ast.walk(ast.parse(text)))
    numbers_only = [node.func for node in nodes if isinstance(node, ast.Call)
                    and ast.unparse(node.func) == "torch.load"
                    and any(ast.unparse(k) == "weights_only=True" for k in node.keywords)]
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {a.name if a.name != "torch" or not a.asname else "torch.*"
                      for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute | ast.Name) and node not in numbers_only:
            names.add(ast.unparse(node))
    return {name for name in names if UNSAFE.fullmatch(name)}


def test_no_file_that_is_read_can_run_code():
    """Weights are loaded as numbers only; nothing else reads a pickle, and nothing is fetched."""
    sources = {(path, ""): path.read_text(encoding="utf-8")
               for path in [ROOT / "helpers.py", *(ROOT / "notebooks").glob("*.py")]}
    sources |= {(path, cell.id): cell.source for path in PATHS
                for cell in code_cells(nbformat.read(path, as_version=4))}
    shown = (PATHS[6], "pickle")                    # there the danger is shown, on a harmless line
    for where, text in sources.items():
        if where != shown:
            imported = "import pickle\n" in text and where[0] == PATHS[6]
            assert dangers(text) == ({"pickle"} if imported else set()), where
        assert not re.search(r"allow_pickle|shell=True", text), where
    assert sum(text.count("torch.load(") for text in sources.values()) >= 2


@pytest.mark.parametrize("text", [
    "import pickle", "from pickle import loads", "import shelve", "from joblib import load",
    "import pandas as pd\npd.read_pickle('x')", "from pandas import read_pickle",
    "import torch\ntorch.load('x')", "torch.load('x', weights_only=False)",
    "from torch import load", "import torch as t\nt.load('x')", "from torch import *",
    "torch.jit.load('x')", "from torch import jit\njit.load('x')", "from torch.jit import load",
    "torch.hub.load('x', 'y')", "from torch import hub", "torch.serialization.load('x')",
    "import http.client", "from urllib.request import urlopen", "import requests as r",
    "eval('1')", "f = exec", "numpy.lib.format.pickle.Unpickler(f)",
])
def test_a_danger_is_seen(text):
    assert dangers(text)


@pytest.mark.parametrize("text", [
    "torch.load('x', weights_only=True)", "import json\njson.loads('1')", "model.eval()",
    "net.load_state_dict(weights)", "import torch", "np.load('x')", "import html",
])
def test_what_is_harmless_is_no_danger(text):
    assert not dangers(text)


@pytest.mark.full
@pytest.mark.skipif(os.name == "nt", reason="the README has another command for Windows")
def test_the_server_of_the_readme_listens_here_only_and_wants_its_token(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    options = re.search(r"\.venv/bin/jupyter (lab .*)", readme)[1].split()
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", *options, "--no-browser", "--port=0"], cwd=ROOT,
        stderr=subprocess.PIPE, text=True, env=os.environ | {
            "JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path)})
    try:
        url = None
        for line in server.stderr:
            if url := re.search(r"http://127\.0\.0\.1:(\d+)/lab\S*token=(\w+)", line):
                break
        assert url, "no address with a token was printed"
        port, token = int(url[1]), url[2]
        assert len(token) >= 32
        listening, deadline = set(), time.monotonic() + 60
        while not listening:                    # it prints its address before it binds the port
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, f"the server does not listen on port {port}"
            listening = {c.laddr.ip for c in psutil.Process(server.pid).net_connections()
                         if c.status == psutil.CONN_LISTEN and c.laddr.port == port}
        assert listening <= {"127.0.0.1", "::1"}
        for headers, status in (({}, 403), ({"Authorization": f"token {token}"}, 200)):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/api/contents", headers=headers)
            assert connection.getresponse().status == status
            connection.close()
    finally:
        server.terminate()
        server.wait()
