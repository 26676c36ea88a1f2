"""What every committed notebook must look like."""

import ast
import base64
import functools
import io
import json
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import nbconvert
import nbformat
import numpy as np
import pytest

import helpers
from course import (
    LOSSES,
    PATHS,
    ROOT,
    WIDGET,
    all_repeatable,
    chosen,
    code_cells,
    expected_numbers,
    kept_after_saving,
    kept_numbers,
    kind,
    machine,
    output_text,
    smaller,
    tags,
)

KNOWN_TAGS = {"parameters", "nbval-check-output", "nbval-ignore-output"}
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def test_all_notebooks_are_there():
    assert [path.name[:2] for path in PATHS] == [f"{n:02d}" for n in range(len(PATHS))]
    assert len(PATHS) >= 6


@each_notebook
def test_was_run_from_the_top_without_errors_or_warnings(path):
    cells = code_cells(read(path))
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", (cell.id, output.text)


@each_notebook
def test_outputs_are_those_of_a_full_run(path):
    text = "\n".join(output_text(c) for c in code_cells(read(path)))
    assert f" of {helpers.QUICK_STEPS} steps" not in text
    assert "not run yet" not in text
    assert "Not held against" not in text


@each_notebook
def test_has_no_widget_state_and_no_dead_widgets(path):
    nb = read(path)
    assert "widgets" not in nb.metadata
    for cell in code_cells(nb):
        assert not any(WIDGET in o.get("data", {}) for o in cell.outputs), cell.id


@functools.cache
def exporter():
    return nbconvert.HTMLExporter(template_name="classic", exclude_input=True)


@each_notebook
def test_as_a_page_shows_every_picture_and_table_and_no_empty_box(path):
    nb = read(path)
    data = [o.get("data", {}) for cell in code_cells(nb) for o in cell.outputs]
    page, _ = exporter().from_notebook_node(nb)
    assert page.count('src="data:image/png;base64,') == sum("image/png" in d for d in data) > 0
    assert page.count("<table") >= sum("<table" in d.get("text/html", "") for d in data)
    assert WIDGET not in page


def test_a_saved_picture_keeps_the_colours_of_a_scale():
    fig, ax = plt.subplots(figsize=(9, 3.4))
    values = np.random.default_rng(0).normal(0, 0.8, (4, 68))
    fig.colorbar(ax.imshow(values, aspect="auto", cmap="PuOr", vmin=-4, vmax=4))
    png = io.BytesIO()
    fig.savefig(png, format="png", dpi=100)
    plt.close(fig)
    before, after = (plt.imread(io.BytesIO(data))[..., :3] for data in (
        png.getvalue(), base64.b64decode(smaller(base64.b64encode(png.getvalue())))))
    assert abs(before - after).max() < 0.15
    assert (after[0, 0] == 1).all()


@each_notebook
def test_has_a_parameters_cell_and_known_tags(path):
    nb = read(path)
    assert [tags(c) for c in nb.cells].count(["parameters"]) == 1
    used = {tag for c in nb.cells for tag in tags(c)}
    assert used <= KNOWN_TAGS
    assert "nbval-check-output" in used


TIMES = re.compile(r"steps/s|seconds|a second|\b\d+(\.\d+)? s\b|[mµ]s\b|\bMB\b")


@each_notebook
def test_cells_that_print_times_are_tagged(path):
    """So that nobody compares them, not even a strict run of nbval."""
    untagged = [c.id for c in code_cells(read(path))
                if TIMES.search(output_text(c)) and not tags(c)]
    assert not untagged


@each_notebook
def test_the_losses_come_from_one_machine(path):
    assert set(read(path).metadata["run_on"]) == {"system", "cpu"}


@each_notebook
def test_cells_have_short_code_and_readable_ids(path):
    nb = read(path)
    ids = [c.id for c in nb.cells]
    assert len(set(ids)) == len(ids)
    for cell in code_cells(nb):
        assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", cell.id)
        assert len(cell.source.splitlines()) <= 30, cell.id


@each_notebook
def test_is_small_and_names_no_folder_of_one_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert not re.search(r"(?<![\w.])/(?:work|tmp|root|home|Users)/", text)


@each_notebook
def test_links_resolve(path):
    text = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+\.ipynb)\)", text)
    assert all((path.parent / link).is_file() for link in links), links
    place = PATHS.index(path)
    for neighbour in PATHS[max(0, place - 1) : place + 2]:
        assert neighbour == path or neighbour.name in links


@functools.cache
def definitions(text):
    """{name: source text} of the classes, and of the functions with a docstring."""
    lines = text.split("\n")
    return {node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno])
            for node in ast.parse(text).body
            if isinstance(node, ast.ClassDef)
            or (isinstance(node, ast.FunctionDef) and ast.get_docstring(node))}


@each_notebook
def test_code_reads_the_same_in_the_notebook_and_in_helpers(path):
    ours = definitions((ROOT / "helpers.py").read_text(encoding="utf-8"))
    for cell in code_cells(read(path)):
        for name, text in definitions(cell.source).items():
            if name in ours:
                assert text == ours[name], name


def test_every_layer_of_helpers_is_written_in_a_notebook():
    ours = definitions((ROOT / "helpers.py").read_text(encoding="utf-8"))
    written = {name for path in PATHS for cell in code_cells(read(path))
               for name in definitions(cell.source)}
    classes = {name for name, text in ours.items() if text.startswith("class ")}
    assert classes - {"Progress"} <= written
    assert {"encode_names", "make_head", "generate"} <= written


def test_a_later_notebook_repeats_the_losses_of_an_earlier_one():
    figures = {}
    for path in PATHS:
        for cell in code_cells(read(path)):
            for label, losses in re.findall(r"(.+): (train \d\.\d{6}, val \d\.\d{6})",
                                            output_text(cell)):
                figures[path.name[:2], label] = losses
    assert figures["01", "MLP, 3 letters"] == figures["02", "3 characters, in layers"]


def test_readme_and_notebooks_give_the_same_results():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for stage, (number, _, count, lecture, _, _) in helpers.STAGES.items():
        text = "\n".join(output_text(c) for c in code_cells(read(PATHS[number])))
        train, val = re.search(rf"^{stage}: train (\S+), val (\S+)$", text, re.M).groups()
        row = next(line for line in readme.splitlines() if f"| {stage} |" in line)
        assert f"{count:,}" in row
        assert f"{float(train):.3f} / {float(val):.3f}" in row
        assert "{:.3f} / {:.3f}".format(*lecture) in row


def test_readme_has_the_results_beyond_the_lecture():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "data" / "wavenet_record.json").read_text(encoding="utf-8"))
    assert record["seconds"] <= 15 * 60
    assert max(record["val"], record["test"]) <= 1.93
    found = {"WaveNet, record": [record["train"], record["val"], record["test"]]}
    for number, label in ((6, "torch tree"), (8, "WaveNet, short")):
        text = "\n".join(output_text(c) for c in code_cells(read(PATHS[number])))
        found[label] = re.search(rf"^{label}: train (\S+), val (\S+)$", text, re.M).groups()
        found[label] += tuple(re.findall(r"^test (\d\.\d{6}),", text, re.M))
    for label, losses in found.items():
        row = next(line for line in readme.splitlines() if f"| {label} |" in line)
        assert " / ".join(f"{float(loss):.3f}" for loss in losses) in row, label


def test_readme_has_the_ratios_of_the_notebook_on_speed():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.split("## Speed")[1].split("## ")[0]
    rows = [line.split("|")[2:5] for line in table.splitlines() if re.search(r"\| \d", line)]
    path, = (path for path in PATHS if path.name.startswith("10"))
    text = "\n".join(output_text(c) for c in code_cells(read(path)))
    assert len(rows) >= 4
    for lecture, ours, ratio in rows:
        before, after = (float(re.search(r"[\d.]+", cell)[0]) for cell in (lecture, ours))
        for cell in (lecture, ours):
            assert re.search(rf"\b{re.escape(re.search(r'[0-9.]+', cell)[0])}\b", text), cell
        assert float(ratio) == pytest.approx(max(before / after, after / before), rel=0.02)


def test_readme_and_first_notebook_show_the_same_map():
    def rows(text):
        row = r"^\| \[?(\d\d [^|\]]+).*\| (.*) \| (.*) min \| (.*) min \|$"
        return re.findall(row, text, re.M)

    first = "\n".join(c.source for c in read(PATHS[0]).cells)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [tuple(s.strip() for s in row) for row in rows(first)] == [
        tuple(s.strip() for s in row) for row in rows(readme)]
    assert len(rows(first)) == len(PATHS)


def test_ci_calls_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"```\n(python3 -m venv .*)\n```", readme)
    assert len(commands) == 2
    assert "jupyter lab" in commands[0]
    assert "pytest" in commands[1]
    assert commands[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_ruff_finds_nothing():
    found = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", str(ROOT)],
                           capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.full
@pytest.mark.parametrize("shown", ["val 2.123456", "val 2.123457"])
@pytest.mark.parametrize("tag", ["nbval-ignore-output", None])
def test_the_full_tests_see_another_loss_in_the_last_digit(shown, tag, tmp_path):
    output = nbformat.v4.new_output("stream", text=f"{shown}, 1.5 s\n")
    cell = nbformat.v4.new_code_cell("print('val 2.123456, 2.5 s')", outputs=[output],
                                     metadata={"tags": [tag] if tag else []}, execution_count=1)
    nb = nbformat.v4.new_notebook(cells=[cell], metadata={"run_on": machine()})
    nbformat.write(nb, tmp_path / "shown.ipynb")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--full", "-n0", "-c", "pyproject.toml", "--rootdir", ".",
         "-k", "shown.ipynb", "tests/test_layers.py", str(tmp_path / "shown.ipynb")],
        cwd=ROOT, capture_output=True, text=True, check=False)
    right = shown == "val 2.123456"
    assert f"1 {'passed' if right else 'failed'}" in done.stdout, done.stdout + done.stderr
    assert ("other numbers than those that are kept" in done.stdout) != right


AMD, INTEL = ({"system": "Linux x86_64", "cpu": f"{vendor} AVX512"}
              for vendor in ("AuthenticAMD", "GenuineIntel"))


@each_notebook
def test_the_numbers_of_another_kind_of_machine_are_those_of_the_same_cells(path):
    ours = all_repeatable(read(path))
    for numbers in kept_numbers().values():
        kept = numbers.get(path.stem, ours)
        assert {cell: len(found) for cell, found in kept.items()} == {
            cell: len(found) for cell, found in ours.items()}


@each_notebook
def test_the_expected_numbers_are_those_of_the_kind_of_machine(path):
    nb = read(path)
    assert expected_numbers(nb, path.stem, nb.metadata["run_on"]) == all_repeatable(nb) != {}
    for other, kept in kept_numbers().items():
        if path.stem in kept:
            assert other != kind(nb.metadata["run_on"])
            system, cpu = other.split(", ")
            found = expected_numbers(nb, path.stem, {"system": system, "cpu": cpu})
            assert found == kept[path.stem]
    assert expected_numbers(nb, path.stem, {"system": "Plan 9", "cpu": "MIPS"}) is None


def saved(text, run_on):
    output = nbformat.v4.new_output("stream", text=text)
    cell = nbformat.v4.new_code_cell("run()", id="log", outputs=[output])
    return nbformat.v4.new_notebook(cells=[cell], metadata={"run_on": run_on})


def test_saving_a_notebook_keeps_the_numbers_of_other_machines_while_they_hold():
    other = {kind(INTEL): {"01": {"log": ["2.002"]}, "02": {"log": ["3.003"]}}}
    only_02 = {kind(INTEL): {"02": {"log": ["3.003"]}}}
    before = saved("2.001", AMD)
    assert kept_after_saving(other, "01", before, saved("2.001", AMD)) == other
    assert kept_after_saving(other, "01", before, saved("2.005", AMD)) == only_02
    assert kept_after_saving(other, "01", before, saved("2.002", INTEL)) == (
        only_02 | {kind(AMD): {"01": {"log": ["2.001"]}}})
    assert kept_after_saving(other, "01", before, saved("2.005", INTEL)) == only_02
    assert kept_after_saving(only_02, "01", before, saved("2.002", INTEL)) == only_02


def test_readme_says_what_differs_between_the_kinds_of_machine():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.split("**The same numbers again.**")[1].split("## ")[0]
    rows = [[s.strip() for s in line.split("|")[1:5]] for line in table.splitlines()
            if re.match(r"\| \d\d \|", line)]
    for path in PATHS:
        row = [row for row in rows if row[0] == path.name[:2]]
        amd, intel = (expected_numbers(read(path), path.stem, cpu) for cpu in (AMD, INTEL))
        if None in (amd, intel):
            assert not row, f"{path.stem}: measure the numbers of both, or delete the row"
            continue
        pairs = [pair for cell in amd for pair in zip(amd[cell], intel[cell], strict=True)]
        assert row or all(a == b for a, b in pairs if LOSSES.fullmatch(a)), path.stem
        for _, what, *both in row:
            for cell, numbers in zip(both, zip(*pairs, strict=True), strict=True):
                for number in re.findall(r"[0-9.]+", cell):
                    assert any(n.endswith(number) for n in numbers), (path.stem, what, number)


def test_the_command_that_runs_notebooks_takes_their_numbers():
    assert chosen([]) == PATHS
    assert chosen(["03", "00"]) == [PATHS[0], PATHS[3]]
    with pytest.raises(SystemExit, match="no notebook 3, record"):
        chosen(["04", "record", "3"])
