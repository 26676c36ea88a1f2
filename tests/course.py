"""The committed notebooks as the tests read them, and the command that makes them anew.

    python tests/course.py 03 04

executes notebooks 03 and 04 in full, from the top, and saves them as they are committed: with
their outputs, without widget state. Without numbers it takes all, in order. It also draws the
picture of the README.

    python tests/course.py record

runs notebook 08 with recipe = "record" and keeps its figures in data/wavenet_record.json, which
the notebook shows beside its short run. It takes about 20 minutes.

    python tests/course.py numbers 03 04

executes them in full, too, but saves no notebook: only the numbers that they print on a machine
of this kind, in tests/numbers.json. `pytest --full` compares with these where the committed
outputs are of another kind. Without numbers it takes all, in order. What is kept of other kinds
is dropped when a notebook that prints other numbers than before is saved.
"""

import base64
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
KEPT_NUMBERS = ROOT / "tests" / "numbers.json"
WIDGET = "application/vnd.jupyter.widget-view+json"


def code_cells(nb):
    """The code cells that have code."""
    return [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]


def tags(cell):
    """The cell's tags."""
    return cell.metadata.get("tags", [])


def output_text(cell):
    """All that the cell printed or showed as plain text."""
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)


def machine():
    """What the last digits of a loss depend on; the committed notebooks name that of their run."""
    # Not at the top: the process that only hands out tests can do without it.
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    vendor = re.search(r"vendor_id\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return {"system": f"{platform.system()} {platform.machine()}",
            "cpu": f"{vendor[1] if vendor else ''} {torch.backends.cpu.get_cpu_capability()}"}


LOSSES = re.compile(r"\b(?:train|val|test) \d\.\d{6}\b")
NUMBERS = re.compile(r"\d\.\d{3,}(?![\de])")


def repeatable(cell, outputs):
    """The numbers of three decimals or more; where the cell prints times, too, its losses alone.

    Differences in the last bit (as 2.8e-07) are none of them: they depend on the threads.
    """
    text = output_text(nbformat.NotebookNode(outputs=outputs))
    return (LOSSES if "nbval-ignore-output" in tags(cell) else NUMBERS).findall(text)


def all_repeatable(nb):
    """{id of a cell: the numbers in its outputs} of the cells that have any."""
    numbers = {cell.id: repeatable(cell, cell.outputs) for cell in code_cells(nb)}
    return {cell: found for cell, found in numbers.items() if found}


def kept_numbers():
    """{kind of machine: {notebook: {id of a cell: numbers}}} as tests/numbers.json has them."""
    return json.loads(KEPT_NUMBERS.read_text(encoding="utf-8"))


def kind(machine):
    """The name of a kind of machine in tests/numbers.json."""
    return f"{machine['system']}, {machine['cpu']}"


def expected_numbers(nb, name, machine):
    """{id of a cell: numbers} that the notebook `name` prints on `machine`; None where unknown."""
    if nb.metadata.get("run_on") == machine:
        return all_repeatable(nb)
    return kept_numbers().get(kind(machine), {}).get(name)


def kept_after_saving(kept, name, before, after):
    """What tests/numbers.json should have when `after` takes the place of `before`.

    Both are the notebook `name` with its outputs. If it prints what was known of the machine of
    `after`, what is known of the others still holds, that of `before` too; else nothing is.
    """
    kept = {other: dict(numbers) for other, numbers in kept.items()}
    here = kind(after.metadata["run_on"])
    known = (all_repeatable(before) if before.metadata.get("run_on") == after.metadata["run_on"]
             else kept.get(here, {}).get(name))
    if known != all_repeatable(after):
        for numbers in kept.values():
            numbers.pop(name, None)
    elif kind(before.metadata["run_on"]) != here:
        kept.setdefault(kind(before.metadata["run_on"]), {})[name] = all_repeatable(before)
        del kept[here][name]
    return kept


def write_kept(kept):
    """Write tests/numbers.json, a cell's numbers on one line."""
    text = json.dumps(kept, indent=1)
    text = re.sub(r"\[[^\]]+\]", lambda found: json.dumps(json.loads(found[0])), text)
    KEPT_NUMBERS.write_text(text + "\n", encoding="utf-8")


def with_parameters(nb, changes):
    """A copy of the notebook with a cell of other parameters, as papermill puts it in."""
    nb = nbformat.from_dict(nb)
    place = next(i for i, c in enumerate(nb.cells) if tags(c) == ["parameters"])
    source = "\n".join(f"{name} = {value!r}" for name, value in changes.items())
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["injected-parameters"]})
    nb.cells.insert(place + 1, cell)
    return nb


def execute(path):
    """Run the notebook in full and save it without the views of its widgets.

    A saved view has no widget behind it: a reader would see an error instead of a panel.
    """
    before = nbformat.read(path, as_version=4)
    subprocess.run(
        [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute",
         "--inplace", "--ExecutePreprocessor.store_widget_state=False",
         "--ExecutePreprocessor.timeout=3600", str(path)],
        check=True, env=os.environ | {"MAKEMORE_QUICK": "0"},
    )
    nb = nbformat.read(path, as_version=4)
    for cell in code_cells(nb):
        cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
        cell.metadata.pop("execution", None)
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
    nb.metadata["run_on"] = machine()
    nbformat.write(nb, path)
    write_kept(kept_after_saving(kept_numbers(), path.stem, before, nb))


def smaller(png):
    """A picture (PNG in base64) in at most 64 colours: a third of the size, and looks the same.

    MAXCOVERAGE, because the usual median cut spends its colours where most pixels are: it draws
    the two dark ends of a scale from brown to purple in one colour.
    """
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    few = picture.quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    saved = io.BytesIO()
    few.save(saved, "png", optimize=True)
    return base64.b64encode(saved.getvalue()).decode()


def draw_picture():
    """Save the tree of notebook 03 as the README's picture."""
    sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]
    import helpers
    import widgets

    helpers.use_style()
    widgets.draw_tree(8, 2, 10, 68, "isabella").savefig(ROOT / "notebooks" / "tree.png")


def executed(nb, folder):
    """The notebook as it is after a full run in `folder`; nothing of it is saved."""
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--stdin",
         "--stdout", "--ExecutePreprocessor.timeout=7200"],
        input=nbformat.writes(nb), encoding="utf-8", stdout=subprocess.PIPE, cwd=folder,
        check=True, env=os.environ | {"MAKEMORE_QUICK": "0", "PYTHONIOENCODING": "utf-8"},
    )
    return nbformat.reads(done.stdout, as_version=4)


def keep_numbers(path):
    """Run the notebook in full and keep the numbers that it prints on this kind of machine."""
    numbers = all_repeatable(executed(nbformat.read(path, as_version=4), path.parent))
    kept = kept_numbers()
    kept.setdefault(kind(machine()), {})[path.stem] = numbers
    write_kept(kept)


def record():
    """Run notebook 08 with its record recipe, and keep the figures that it measures."""
    path = next(path for path in PATHS if path.name.startswith("08"))
    executed(with_parameters(nbformat.read(path, as_version=4),
                             {"recipe": "record", "pair_seeds": 1, "pair_epochs": 1}), path.parent)
    kept = path.parent / "output" / "wavenet_record.json"
    shutil.move(kept, ROOT / "data" / kept.name)


def chosen(numbers):
    """The paths of the notebooks with these numbers, as 03; without any, of all."""
    unknown = set(numbers) - {path.name[:2] for path in PATHS}
    if unknown:
        sys.exit(f"There is no notebook {', '.join(sorted(unknown))}. "
                 "Give numbers of two digits, as 03.")
    return [path for path in PATHS if not numbers or path.name[:2] in numbers]


if __name__ == "__main__":
    if sys.argv[1:] == ["record"]:
        record()
    elif sys.argv[1:2] == ["numbers"]:
        for notebook in chosen(sys.argv[2:]):
            keep_numbers(notebook)
    else:
        notebooks = chosen(sys.argv[1:])
        draw_picture()
        for notebook in notebooks:
            execute(notebook)
