"""docs/names, which makes names, and the figures that need no kernel, in a real browser."""

import base64

import nbformat
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

import helpers
from course import models, panels, record, runs, wavenet, web
from save import PATHS
from test_browser import SCREENS

pytestmark = pytest.mark.browser
WORDS = helpers.load_words()
STOI, ITOS = helpers.build_vocab(WORDS)
MAKE = {"WaveNet": lambda: wavenet.WaveNet(27, 8, 12, [1, 3], kernel_size=3),
        "Stack": lambda: models.Stack(27, 8, 12), "tree": lambda: helpers.make_tree(27, 8, 5, 6)}


@pytest.fixture
def page(browser):
    """The page on a phone. It must log no error and reach nothing but its files."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page, found = context.new_page(), []
    page.on("request", lambda request: found.append(request.url))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda message: found.append(message.text))
    page.goto((web.DATA.parent / "index.html").as_uri())
    yield page
    context.close()
    assert [text for text in found if not text.startswith(("file:", "data:"))] == []


def own():
    """The page's own network, in torch."""
    net = runs.build(runs.complete(record.RECORD | web.SMALL))
    weights = base64.b64decode(web.DATA.read_text(encoding="utf-8").split('"')[1])
    net.load_state_dict(safetensors.torch.load(weights))
    return net


def logits(net, name):
    ids = [0] * 8 + [STOI[letter] for letter in name]
    tree = isinstance(net, helpers.Sequential)
    with helpers.mode(net, False), torch.inference_mode():
        return net(torch.tensor([ids[-8:] if tree else ids[7:]])).view(-1, 27)[-1]


@pytest.mark.parametrize("kind", ["its own", *MAKE])
def test_the_page_computes_what_torch_computes(kind, page, tmp_path):
    torch.manual_seed(1)
    net = MAKE.get(kind, own)()
    if kind != "its own":
        for norm in net.layers[3::4] if kind == "tree" else ():
            norm.running_mean, norm.running_var = torch.rand(2, *norm.gamma.shape)
        page.get_by_label("a .safetensors file").set_input_files(
            web.export(net, ITOS, tmp_path / "net.safetensors"))
        page.get_by_text("The names above now come").wait_for()
    prefixes = [word[: i % (len(word) + 1)] for i, word in enumerate(WORDS[: 200 * 161 : 161])]
    found = page.evaluate("all => all.map(prefix => [...network.read(prefix).logits])", prefixes)
    expected = torch.stack([logits(net, prefix) for prefix in prefixes])
    torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=0)
    numbers = torch.rand(30 * 20).tolist()
    found, ms = page.evaluate("""numbers => {
        const uniform = () => numbers.shift(), how = {prefix: "ka", temperature: 0.8, uniform};
        const start = performance.now();
        const names = Array.from({length: 20}, () => generate(network, how));
        return [names, (performance.now() - start) / 20];
    }""", numbers)
    stream = iter(numbers)
    for name in found:
        drawn = "ka"
        while len(drawn) < 30:
            shares = F.softmax(logits(net, drawn) / 0.8, 0).cumsum(0)
            if not (i := (shares <= next(stream)).sum().item()):
                break
            drawn += ITOS[i]
        assert name == drawn
    assert ms < 50                                            # on a machine at rest it is below 5


def test_every_control_of_the_page_answers(page, tmp_path):
    for label, act in {"first letters": lambda field: field.press_sequentially("Em"),
                       "temperature": lambda field: field.press("ArrowLeft"),
                       "seed": lambda field: field.press("ArrowUp"),
                       "More names": lambda button: button.click()}.items():
        before = page.locator("body").inner_text()
        act(page.get_by_label(label).or_(page.get_by_role("button", name=label)))
        page.wait_for_function("before => document.body.innerText !== before", arg=before)
    names = page.locator("#names button")
    for i, name in enumerate(names.all_inner_texts()):
        assert name.startswith("em")
        assert names.nth(i).get_attribute("class") == ("real" if name in WORDS else "new")
    names.last.press("Enter")
    assert page.locator("#letters tr").count() == len(name) + 1
    page.get_by_label("first letters").fill("em7")
    page.get_by_text('doesn\'t know "7"').wait_for()
    for content, said in ((b"none", "isn't a safetensors file"), (safetensors.torch.save(
            {"x": torch.ones(1)}), "doesn't say which model it holds")):
        page.get_by_label("a .safetensors file").set_input_files(
            {"name": "x", "mimeType": "", "buffer": content})
        page.get_by_text(said).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert sum(file.stat().st_size for file in web.DATA.parent.iterdir()) < 2e6
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=SCREENS / f"names-{scheme}.png", full_page=True)


@pytest.mark.parametrize(("number", "kind", "label", "choice"), [
    ("01", "windows", "block_size", "8"), ("03", "tree", "tree", "9 characters in groups of 3"),
    ("04", "cube", "mean over", "0, 1"), ("08", "dilation", "kernel size", "3")])
def test_a_figure_answers_without_a_kernel(number, kind, label, choice, page):
    path = next(path for path in PATHS if path.name.startswith(number))
    html = next(cell.outputs[0].data["text/html"] for cell in nbformat.read(path, 4).cells
                if cell.source.startswith(f'panels.figure("{kind}"'))
    assert html.split("<script>")[1] == panels.figure(kind).data.split("<script>")[1]
    page.set_content(html)
    picture, said = page.locator("svg"), page.locator("p")
    for act in (lambda: picture.locator("[tabindex] > :first-child, polygon").nth(2).hover(),
                lambda: page.get_by_label(label).select_option(choice)):
        before = said.inner_text(), picture.inner_html()
        act()
        assert (said.inner_text(), picture.inner_html()) != before
    picture.screenshot(path=SCREENS / f"{number}-{kind}.png")
