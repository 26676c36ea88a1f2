"""The course as a website, built by Sphinx from the saved notebooks; see tests/README.md."""

import json
import os
import shutil
from pathlib import Path

DOCS = Path(__file__).parent
shutil.rmtree(DOCS / "notebooks", ignore_errors=True)
(DOCS / "notebooks").mkdir()
for path in (DOCS.parent / "notebooks").glob("*.ipynb"):
    shutil.copy2(path, DOCS / "notebooks")

project = html_title = "Building a WaveNet, by hand"
extensions = ["myst_nb"]
exclude_patterns = ["_build", "_templates", "names", "requirements.txt"]
myst_heading_anchors = 2                    # notebooks link to a heading by its text: #Exercises
myst_heading_slug_func = "builtins.str"
highlight_language = "none"
nb_execution_mode = "off"
nb_ipywidgets_js = {}                       # the panels are saved as pictures
nb_merge_streams = True
nb_code_prompt_show = "Write down your prediction, then show the output"
nb_code_prompt_hide = "Hide the output"

html_theme = "furo"
html_static_path, templates_path = ["_static"], ["_templates"]
html_sidebars = {"**": ["sidebar/brand.html", "sidebar/search.html", "sidebar/scroll-start.html",
                        "names.html", "sidebar/navigation.html", "sidebar/scroll-end.html"]}
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_copy_source = html_show_copyright = html_use_index = False
pygments_dark_style = "github-dark"
blue = {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2",
        "color-admonition-title": "#0072b2", "color-admonition-title-background": "#0072b222"}
html_theme_options = {
    "light_css_variables": blue,
    "dark_css_variables": {name: value.replace("#0072b2", "#56b4e9")
                           for name, value in blue.items()},
}
if "GITHUB_REPOSITORY" in os.environ:
    html_theme_options["footer_icons"] = [{
        "name": "", "html": "The course's repository", "class": "",
        "url": "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}".format(**os.environ)}]


def hide_answers(app, page, source):
    """Fold the outputs that JupyterLab hides: they answer a prediction."""
    if page.startswith("notebooks/"):
        nb = json.loads(source[0])
        for cell in nb["cells"]:
            if cell["metadata"].get("jupyter", {}).get("outputs_hidden"):
                cell["metadata"]["tags"] = ["hide-output"]
                cell["outputs"] = [o for o in cell["outputs"] if o.get("data") != {}]
        source[0] = json.dumps(nb)


def name_answers(app, page, template, context, doctree):
    """Let a screen reader say what a folded output's line says, not "Toggle hidden content"."""
    context["body"] = context.get("body", "").replace(' aria-label="Toggle hidden content"', "")


def copy_names(app, exception):
    """Copy the page that makes names: it needs no building."""
    if exception is None:
        shutil.copytree(DOCS / "names", app.outdir / "names", dirs_exist_ok=True)


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", hide_answers)
    app.connect("html-page-context", name_answers)
    app.connect("build-finished", copy_names)
