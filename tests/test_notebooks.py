"""What every saved notebook looks like, how the modules are built, and what the README promises."""

import ast
import dis
import functools
import graphlib
import re
import subprocess
import sys
import types

import nbformat
import pytest

import course
import save
from course import expected, record
from save import PATHS, ROOT, code_cells, hidden, output_text, repeatable, tags

KNOWN_TAGS = {"parameters", "nbval-check-output", "nbval-ignore-output"}
COURSE = sorted((ROOT / "notebooks" / "course").glob("*.py"))
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@functools.cache
def read(path):
    if path.name in save.edited():
        pytest.skip("changed since the last commit, so a reader's own by now")
    return nbformat.read(path, as_version=4)


@functools.cache
def text_of(path):
    return path.read_text(encoding="utf-8")


def test_the_notebooks_are_numbered_without_gaps():
    assert [path.name[:2] for path in PATHS] == [f"{n:02d}" for n in range(13)]


def test_the_environment_is_one_line_or_a_table_of_what_to_fix(monkeypatch, capsys):
    course.environment()
    assert re.fullmatch(r"Python 3\S+, torch 2\S+: all \d+ packages .*, \d+ cores\n",
                        capsys.readouterr().out)
    monkeypatch.setattr(course, "installed", lambda p: "missing" if p == "tqdm" else "2.13.0")
    course.environment()
    shown = capsys.readouterr().out.splitlines()
    assert re.search(r"\d+ to fix", shown[0])
    assert [row.split()[:2] for row in shown if "tqdm" in row] == [["tqdm", "missing"]]


@each_notebook
def test_was_saved_after_a_full_run_from_the_top(path):
    nb = read(path)
    cells = code_cells(nb)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert set(nb.metadata["run_on"]) == {"system", "cpu"}
    assert "widgets" not in nb.metadata
    assert len(text_of(path)) < 400_000
    assert not re.search(r"(?<![\w.])/(?:work|tmp|root|home|Users)/", text_of(path))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", (cell.id, output.text)
            assert save.WIDGET not in output.get("data", {}), cell.id
            if "image/png" in output.get("data", {}):
                assert len(cell.metadata["mystnb"]["image"]["alt"]) >= 30, cell.id
        assert not re.search("quick mode|not run yet|Not held|Stopped", output_text(cell)), cell.id


TIMES = re.compile(r"steps/s|seconds|a second|\b\d+(\.\d+)? s\b|[mµ]s\b|\bMB\b")


@each_notebook
def test_cells_have_known_tags_and_readable_ids(path):
    nb = read(path)
    used = {tag for cell in nb.cells for tag in tags(cell)}
    assert {"parameters", "nbval-check-output"} <= used <= KNOWN_TAGS
    assert len({cell.id for cell in nb.cells}) == len(nb.cells)
    for cell in code_cells(nb):
        assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", cell.id)
        # A strict run of nbval would compare the times, too.
        assert tags(cell) or not TIMES.search(output_text(cell)), cell.id


@each_notebook
def test_begins_with_the_parameters_and_one_setup_and_then_teaches(path):
    first, setup, *others = code_cells(read(path))
    assert [tags(first), setup.id] == [["parameters"], "setup"]
    assert "sys.path" in setup.source
    assert len(list(filter(None, setup.source.splitlines()))) <= 12
    for cell in others:
        assert "parameters" not in tags(cell)
        assert len(cell.source.splitlines()) <= 30, cell.id
        if cell.id != "test":        # where notebook 03 teaches how to write a test
            assert not re.search(r"\bcapped\(|\bQUICK\b|sys\.path|^\s*assert\b|KeyboardInterrupt",
                                 cell.source, re.M), cell.id


@each_notebook
def test_a_prediction_is_answered_by_a_hidden_output_and_a_folded_text(path):
    cells = read(path).cells
    asked = [i for i, cell in enumerate(cells)
             if cell.cell_type == "markdown" and "**Predict.**" in cell.source]
    assert asked
    for i in asked:
        assert hidden(cells[i + 1]), cells[i].id
        assert cells[i + 1].outputs[0] == {"output_type": "display_data", "data": {},
                                           "metadata": {}}, "its first line would be shown"
        assert cells[i + 2].source.startswith("<details><summary>Answer</summary>"), cells[i].id


@pytest.mark.parametrize("path", [*PATHS, ROOT / "README.md", *ROOT.glob("*/README.md")],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_exist(path):
    text = text_of(path)
    if path in PATHS:
        text = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
        place = PATHS.index(path)
        for neighbour in PATHS[max(0, place - 1) : place + 2]:
            assert neighbour == path or f"({neighbour.name}" in text
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        file = "".join(target).split("#")[0]
        assert re.match(r"https?:|$", file) or (path.parent / file).exists(), file


@functools.cache
def definitions(text):
    """{name: source} of the classes, and of the functions that have a docstring."""
    lines = text.split("\n")
    return {node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno])
            for node in ast.parse(text).body if isinstance(node, ast.ClassDef)
            or (isinstance(node, ast.FunctionDef) and ast.get_docstring(node))}


@each_notebook
def test_code_reads_the_same_in_the_notebook_and_in_its_module(path):
    kept = {}
    for module in [ROOT / "helpers.py", *(m for m in COURSE if m.stem != "runs")]:
        for name, text in definitions(text_of(module)).items():
            kept.setdefault(name, []).append(text)
    for cell in code_cells(read(path)):
        for name, text in definitions(cell.source).items():
            assert cell.id.startswith("turn-") or text in kept.get(name, [text]), name


def global_names(code):
    """(assigned, used): the global names of a code object."""
    done = [(i.opname, i.argval) for i in dis.get_instructions(code)]
    used = {name for action, name in done if action in ("LOAD_NAME", "LOAD_GLOBAL")}
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return ({name for action, name in done if action in ("STORE_NAME", "STORE_GLOBAL")},
            used.union(*(global_names(const)[1] for const in inner)))


@each_notebook
def test_you_can_go_back_to_a_cell_and_run_a_training_again(path):
    """What a cell reads is not written below it, nor in two sections; a training builds its model.

    In 01, whose parameters are global, the training begins with the same call as their section.
    """
    section, cells = 0, []
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            section += len(re.findall("^##", cell.source, re.M))
        elif (path.name[:2], cell.id) != ("01", "train"):
            cells.append((section, cell, *global_names(compile(cell.source, cell.id, "exec"))))
    for i, (section, cell, assigned, used) in enumerate(cells):
        for name in used - assigned:
            above, below = ([where for where, _, written, _ in some if name in written]
                            for some in (cells[:i], cells[i:]))
            assert not (above and below), (cell.id, name)
            assert len(set(above)) < 2 or above[-1] == section, (cell.id, name)
        trained = {ast.unparse(model) for node in ast.walk(ast.parse(cell.source))
                   if isinstance(node, ast.Call)
                   and re.search(r"\b(train|fit|train_names)$", ast.unparse(node.func))
                   for model in node.args[:1]}
        assert not trained & used - assigned, cell.id


def test_every_layer_and_the_wavenet_are_written_in_a_notebook():
    written = {name for path in PATHS for cell in code_cells(read(path))
               for name in definitions(cell.source)}
    for file in (ROOT / "helpers.py", ROOT / "notebooks" / "course" / "wavenet.py"):
        assert set(re.findall(r"^class (\w+)", text_of(file), re.M)) - {"Progress"} <= written
    assert {"encode_names", "make_head", "generate"} <= written


def test_modules_are_short_and_import_in_one_direction():
    graph = {}
    for path in [ROOT / "helpers.py", *COURSE]:
        found = re.findall(r"^ *from course(?:\.(\w+)| import (\([^)]+|.+))", text_of(path), re.M)
        graph[path.stem] = set(re.findall(r"\w+", str(found)))
        assert len(text_of(path).splitlines()) <= 450, path.name
    assert not graph["helpers"]
    list(graphlib.TopologicalSorter(graph).static_order())                  # fails for a circle


@pytest.mark.parametrize("path", [ROOT / "helpers.py", *COURSE, *PATHS],
                         ids=lambda path: path.stem)
def test_nothing_that_is_read_may_run_code(path):
    """Beyond what ruff finds: no pickles, weights as numbers only, no change of the path."""
    source = ("\n".join(c.source for c in code_cells(read(path))) if path in PATHS
              else text_of(path).replace("sys.path", "allow_pickle"))
    assert not re.search(r"torch\.load\((?!.*weights_only=True)|allow_pickle|read_pickle"
                         r"|\brequests\b|^ *(from|import) .*[ ,]_[a-z]", source, re.M)


def test_ruff_finds_nothing():
    pytest.importorskip("ruff", reason="needs tests/requirements.txt")
    ours = [*ROOT.glob("*.py"), *ROOT.glob("tests/*.py"), *COURSE, *(
        path for path in PATHS if path.name not in save.edited())]
    found = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", *ours],
                           capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def printed(number):
    """All that the saved notebook with this number printed."""
    return "\n".join(map(output_text, code_cells(read(PATHS[number]))))


def row(name):
    """The row of the README's tables that has a cell `name`."""
    found, = (line for line in text_of(ROOT / "README.md").splitlines() if f"| {name} |" in line)
    return found


def test_readme_has_the_results_of_the_notebooks():
    for stage, (number, _, count, lecture, *_) in expected.STAGES.items():
        losses = re.search(rf"^{stage}: train (\S+), val (\S+)$", printed(number), re.M).groups()
        assert f"{count:,}" in row(stage)
        assert " / ".join(f"{float(loss):.3f}" for loss in losses) in row(stage)
        assert "{:.3f} / {:.3f}".format(*lecture) in row(stage)
    assert len(set(re.findall(r"(?:MLP, 8 letters|flat network): (train \S+, val \S+)$",
                           printed(2) + "\n" + printed(3), re.M))) == 1       # 02 and 03 agree
    best = "val {val:.3f} and test {test:.3f}".format(**record.load()[1])
    assert best in " ".join(text_of(ROOT / "README.md").split())


def test_readme_and_the_first_notebook_show_the_same_map():
    def rows(text):
        row = (r"^\| \[?(\d\d [^|\]]+).*?\| (.*) \| (.*) min "
               r"\| \[(.*) min\]\(.*#Exercises\) \| (.*) min \|$")
        return [tuple(map(str.strip, cells)) for cells in re.findall(row, text, re.M)]

    first = rows("\n".join(cell.source for cell in read(PATHS[0]).cells))
    assert first == rows(text_of(ROOT / "README.md"))
    assert len(first) == len(PATHS)


def test_ci_runs_the_readmes_commands_and_only_the_site_may_be_written():
    _, test = re.findall(r"```\n(python3 .*?)```", text_of(ROOT / "README.md"), re.S)
    assert test in text_of(ROOT / ".ci" / "run")
    site, = re.findall(r"python -m sphinx .*", text_of(ROOT / "tests" / "README.md"))
    workflows = {path.stem: text_of(path) for path in (ROOT / ".github/workflows").iterdir()}
    assert site in workflows["site"]
    for name, text in workflows.items():
        used = re.findall("uses: (.*)", text)
        assert all(re.search(r"@[0-9a-f]{40}\b", action) for action in used)
        rights = re.findall(r"^ *permissions:\n(?: +.*\n)+", text, re.M)
        assert rights[0] == "permissions:\n  contents: read\n"
        assert "".join(rights[1:]).count("write") == (2 if name == "site" else 0)


def test_the_numbers_compared_under_full_are_the_losses_and_without_times_all():
    output = nbformat.v4.new_output("stream", text="val 2.123456, 0.0179, 3.25e-07, 1.512 s\n")
    cells = [nbformat.v4.new_code_cell(metadata={"tags": tags}) for tags in (
        [], ["nbval-ignore-output"])]
    assert [repeatable(cell, [output]) for cell in cells] == [
        ["2.123456", "0.0179", "1.512"], ["val 2.123456"]]
    with pytest.raises(SystemExit, match="no notebook 3: use two digits"):
        save.main(["04", "3"])
