"""Runs notebooks in full and saves them with their outputs; what the tests use to read them.

    python tests/save.py 03 04

runs notebooks 03 and 04 from the top and saves them; without numbers, all of them, in order. It
also draws the README's picture."""

import ast
import base64
import functools
import io
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
README = (ROOT / "README.md").read_text(encoding="utf-8")
PATHS = [ROOT / path for path in re.findall(r"\((notebooks/\d\d_\w+\.ipynb)\)", README)]
WIDGET = "application/vnd.jupyter.widget-view+json"
LOSSES = re.compile(r"\b(?:train|val|test) \d\.\d{6}\b")
NUMBERS = re.compile(r"\d\.\d{3,}(?![\de])")


def code_cells(nb):
    """The code cells that are not empty."""
    return [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]


def tags(cell):
    return cell.metadata.get("tags", [])


def hidden(cell):
    """Whether JupyterLab hides the cell's saved output: it answers a prediction."""
    return cell.metadata.get("jupyter", {}).get("outputs_hidden", False)


def output_text(cell):
    """Everything the cell printed or showed as plain text."""
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)


@functools.cache
def edited():
    """The names of the notebooks that are no longer as committed: a reader's own by now."""
    git = shutil.which("git")
    found = git and subprocess.run([git, "diff", "--name-only", "HEAD", "--", "*.ipynb"], cwd=ROOT,
                                   capture_output=True, text=True, check=False).stdout
    return {Path(line).name for line in (found or "").splitlines()}


def parameters(path):
    """{name: value} of a notebook's hyperparameters."""
    cell, = (c for c in nbformat.read(path, as_version=4).cells if "parameters" in tags(c))
    return {line.targets[0].id: ast.literal_eval(line.value)
            for line in ast.parse(cell.source).body}


def with_parameters(path, changes):
    """The notebook at `path` with other hyperparameters, as papermill sets them."""
    from papermill.iorw import load_notebook_node  # here, because it takes two seconds
    from papermill.parameterize import parameterize_notebook

    return parameterize_notebook(load_notebook_node(str(path)), changes)


def copied(folder):
    """`folder`, with a copy of what a reader has."""
    return shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(
        ".*", "output", "__pycache__", "tests", "docs"))


def machine():
    """What decides the last digits of a loss. A saved notebook names the machine of its run."""
    import torch  # here, because reading a notebook does not need it

    cpuinfo = Path("/proc/cpuinfo")
    vendor = re.search(r"vendor_id\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return {"system": f"{platform.system()} {platform.machine()}",
            "cpu": f"{vendor[1] if vendor else ''} {torch.backends.cpu.get_cpu_capability()}"}


def repeatable(cell, outputs):
    """The numbers that a second run on the same kind of machine must print again.

    Those with three decimals or more; in a cell that also prints times, only its losses.
    """
    text = output_text(nbformat.NotebookNode(outputs=outputs))
    return (LOSSES if "nbval-ignore-output" in tags(cell) else NUMBERS).findall(text)


def losses(outputs):
    """The losses of six decimals that a cell prints, as numbers."""
    return [float(found.split()[1]) for found in LOSSES.findall(
        output_text(nbformat.NotebookNode(outputs=outputs)))]


def executed(nb, folder, env=os.environ | {"MAKEMORE_QUICK": "0"}, **options):
    """The notebook after a run in `folder`, in full unless `env` says other."""
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--stdin",
         "--stdout", "--ExecutePreprocessor.store_widget_state=False",
         "--ExecutePreprocessor.timeout=7200", "--ExecutePreprocessor.iopub_timeout=60"],
        input=nbformat.writes(nb), encoding="utf-8", stdout=subprocess.PIPE, cwd=folder,
        check=True, env=env | {"PYTHONIOENCODING": "utf-8"}, **options)
    return nbformat.reads(done.stdout, as_version=4)


def smaller(png):
    """A picture (PNG in base64) in at most 64 colours: it looks the same at a third of the size."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    few = picture.quantize(64, Image.Quantize.FASTOCTREE)        # it keeps what is transparent
    few.save(saved := io.BytesIO(), "png", optimize=True)
    return base64.b64encode(saved.getvalue()).decode()


def save(path):
    """Run the notebook in full and save it: stills of panels, small pictures, its machine named."""
    nb = executed(nbformat.read(path, as_version=4), path.parent)
    for cell in code_cells(nb):
        cell.metadata.pop("execution", None)
        for data in (output.get("data", {}) for output in cell.outputs):
            data.pop(WIDGET, None)               # saved without its widget it would be an error
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
        if hidden(cell):                         # JupyterLab shows a line of the first output
            cell.outputs.insert(0, nbformat.v4.new_output("display_data"))
    nb.metadata["run_on"] = machine()
    nbformat.write(nb, path)


def main(arguments):
    unknown = set(arguments) - {path.name[:2] for path in PATHS}
    if unknown:
        sys.exit(f"There is no notebook {', '.join(sorted(unknown))}: use two digits, as in 03.")
    sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]
    from course import pictures, plots

    plots.use_style()
    pictures.draw_readme_tree("isabella", 10, 68).savefig(ROOT / "docs" / "tree.png")
    for path in PATHS:
        if not arguments or path.name[:2] in arguments:
            save(path)


if __name__ == "__main__":
    main(sys.argv[1:])
