"""One file that holds the views and asks for nothing else."""

import json
import re
from base64 import b64encode
from hashlib import sha256

import pytest

from residscope import views
from residscope.errors import BadView, NoPage
from residscope.views import html

EVIL = "</script><script>alert(1)</script><!-- \u202eevil\u2028\ud800"


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A built page small enough to read."""
    folder = tmp_path / "package"
    (folder / "_ui").mkdir(parents=True)
    (folder / "_ui" / "frozen.js").write_text("const a='</script><!--{not a field}'")
    (folder / "_ui" / "frozen.css").write_text("p{color:red}")
    monkeypatch.setattr(html, "files", lambda _: folder)


def embedded(page):
    return json.loads(re.search(r'<script type="application/json" id="views">(.*?)</script>', page, re.DOTALL)[1])


@pytest.mark.usefixtures("built")
def test_views_come_back_out_of_the_page_as_they_went_in():
    view = views.TokenStrip([EVIL], [1.0], title=EVIL)
    page = views.to_html(view)
    assert embedded(page)["views"] == [view.to_dict()]
    assert page.count("<script") == page.count("</script>") == 2
    assert "\u202e" not in page
    assert "<title>&lt;/script&gt;" in page
    page.encode("utf-8")


@pytest.mark.usefixtures("built")
def test_the_policy_allows_the_one_script_that_is_there():
    page = views.to_html([views.Text("a", "b"), views.Text("c", "d")], title="Two")
    script = re.search(r"</script>\n<script>(.*)</script>\n</body>", page, re.DOTALL)[1]
    assert "<!--" not in script
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in page
    assert "default-src 'none'" in page
    assert [view["title"] for view in embedded(page)["views"]] == ["a", "c"]


@pytest.mark.usefixtures("built")
def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = views.save_html(views.Text("a", "b"), tmp_path / "a.html", title="T")
    assert "<title>T</title>" in path.read_text()
    with pytest.raises(BadView):
        views.save_html([views.Text("a", "b"), "a string"], path)
    assert "<title>T</title>" in path.read_text()
    assert [p.name for p in tmp_path.glob("*a.html*")] == ["a.html"]


@pytest.mark.usefixtures("built")
def test_a_notebook_gets_a_frame_of_its_own():
    shown = views.Text("a", '"quoted"')._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert shown.count('"') == shown.count('="') * 2


def test_without_the_built_page_there_is_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "files", lambda _: tmp_path)
    with pytest.raises(NoPage, match=r"pip install -e"):
        views.save_html(views.Text("a", "b"), tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []
