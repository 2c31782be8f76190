"""The report and the search page in a real browser; skipped, with the reason, where there is none."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import readme_pictures
from PIL import Image
from support.looking import STRANGE, begun, browser, files, named_dataset, served
from support.paths import ROOT

from sreml_jax.embedder import Embedder
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.embed import embed
from sreml_jax.search.index import Index

WIDTHS = (1400, 400)


@pytest.fixture(scope='module')
def chromium() -> Iterator:
    """A browser."""
    with browser() as opened:
        yield opened


@pytest.fixture(scope='module')
def workdir(tmp_path_factory) -> Path:
    """A run that has only begun."""
    return begun(tmp_path_factory.mktemp('look') / 'run')


@pytest.fixture(scope='module')
def embedder(workdir) -> Embedder:
    """Of that run."""
    return Embedder(workdir)


@pytest.fixture(scope='module')
def report(workdir, embedder, tmp_path_factory) -> Path:
    """Its report, alone in a folder."""
    from sreml_jax.evaluation import report_page

    path = report_page.write(embedder, named_dataset())
    return Path(shutil.move(path, tmp_path_factory.mktemp('alone') / 'moved.html'))


@pytest.fixture(scope='module')
def photos(tmp_path_factory) -> Path:
    """The test images as files."""
    folder = tmp_path_factory.mktemp('photos')
    files(folder)
    return folder


@pytest.fixture(scope='module')
def address(embedder, photos, tmp_path_factory) -> Iterator[str]:
    """Where the search page over them is served."""
    from sreml_jax.search.batched import Finder

    index = tmp_path_factory.mktemp('index') / 'index'
    embed(embedder, str(photos), index)
    with served(Finder(embedder, Index(index), 6)) as address:
        yield address


@pytest.fixture
def page(chromium) -> Iterator:
    """A page that keeps every complaint in `said` and every request in `asked`."""
    page = chromium.new_page()
    page.said, page.asked = [], []
    page.on('console', lambda message: page.said.append(message.text))
    page.on('pageerror', lambda error: page.said.append(str(error)))
    page.on('request', lambda request: page.asked.append(request.url))
    yield page
    page.close()


def check_pictures(page) -> None:
    """Every picture is loaded."""
    page.evaluate('Promise.allSettled([...document.images].map(i => i.decode()))')
    assert page.evaluate('[...document.images].filter(i => !i.naturalWidth).map(i => i.alt)') == []
    assert page.evaluate('document.images.length') > 0


def check_width(page, width: int) -> None:
    """Nothing is wider than the window."""
    page.set_viewport_size({'width': width, 'height': 900})
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    outside = """width => [...document.querySelectorAll('body *')].filter(
        e => e.getBoundingClientRect().right > width + 0.5).map(e => e.outerHTML.slice(0, 80))"""
    assert page.evaluate(outside, width) == []


def test_the_report_opens_from_disk(page, report):
    page.context.set_offline(True)
    page.goto(report.as_uri())
    check_pictures(page)
    for width in WIDTHS:
        check_width(page, width)
    assert page.said == []
    assert {url.partition(':')[0] for url in page.asked} <= {'file', 'data'}
    assert [url for url in page.asked if url.startswith('file')] == [report.as_uri()]
    assert page.locator('h2').all_inner_texts() == [
        *('Training', 'Recall@K', 'Members', 'Fewer dimensions', 'Hardest classes'),
        *('Worst queries', 'Best queries', 'Map of the test embeddings', 'Config', 'Versions'),
    ]


def test_no_head_of_a_table_breaks_within_a_word_and_no_card_leaves_a_gap(page, report):
    page.goto(report.as_uri())
    lines = """head => [...head.childNodes].flatMap(node => [...node.data.matchAll(/[\\w@]+/g)].map(word => {
        const range = document.createRange();
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        return range.getClientRects().length;
    }))"""
    for width in WIDTHS:
        page.set_viewport_size({'width': width, 'height': 900})
        for head in page.locator('#members th, #shrunk th').all():
            assert set(head.evaluate(lines)) == {1}, head.inner_text()
        right = [page.locator(name).bounding_box() for name in ('#curves', '#shrunk')]
        assert right[0]['x'] + right[0]['width'] == right[1]['x'] + right[1]['width']
        check_width(page, width)


def test_the_map_shows_what_one_points_at(page, report):
    page.goto(report.as_uri())
    for width in WIDTHS:
        page.set_viewport_size({'width': width, 'height': 900})
        for i in (0, 41):  # 0 is of the class with the strange name
            circle = page.locator(f'circle[data-i="{i}"]')
            circle.scroll_into_view_if_needed()
            box = circle.bounding_box()
            page.mouse.move(box['x'] + box['width'] / 2, box['y'] + box['height'] / 2)
            assert page.locator('#tip').is_visible()
            assert page.locator('#tip span').inner_text() == (STRANGE if i == 0 else '9')
            assert len(page.evaluate('document.querySelector("#tip canvas").toDataURL()')) > 2000  # not blank
            check_width(page, width)
        page.mouse.move(1, 1)
        assert not page.locator('#tip').is_visible()
    assert page.said == []


def test_search_by_upload_and_from_image_to_image(page, address, photos):
    photo = sorted(photos.rglob('*.png'))[5]
    page.goto(address)
    page.set_input_files('#drop input', photo)
    page.wait_for_selector('#found li')
    name = f'{photo.parent.name}/{photo.name}'
    assert page.locator('#found li').count() == 6
    assert page.locator('#found span').first.inner_text() == name
    assert page.locator('#found b').first.inner_text() == '1.000'
    folder, file = name.split('/')  # where a narrow card breaks the line
    assert page.locator('#found span').first.inner_html() == f'{folder}/<wbr>{file}<wbr>'
    assert page.locator('#query figcaption').inner_text() == photo.name
    check_pictures(page)
    for width in WIDTHS:
        check_width(page, width)

    second = page.locator('#found span').nth(1).inner_text()
    page.locator('#found .like').nth(1).click()
    page.locator('#query figcaption', has_text=second).wait_for()
    assert second not in page.locator('#found span').all_inner_texts()
    assert page.locator('#found li').count() == 6
    check_pictures(page)
    page.go_back()
    page.locator('#query figcaption', has_text=re.compile(rf'^{photo.name}$')).wait_for()
    assert page.said == []
    assert {url.split('/')[2] for url in page.asked if url.startswith('http')} == {address.split('/')[2]}


def test_begin_with_an_example(page, address):
    page.goto(address)
    assert page.locator('#examples button').count() == 12
    for width in (1400, 800, 400):
        page.set_viewport_size({'width': width, 'height': 900})
        tops = [one.bounding_box()['y'] for one in page.locator('#examples button').all()]
        assert tops.count(max(tops)) == tops.count(min(tops))  # no row is left half empty
    page.evaluate('window.scrollTo(0, 9999)')
    page.locator('#examples button').nth(2).click()
    page.wait_for_selector('#found li')
    assert page.locator('#begin').is_hidden()
    page.go_back()
    page.locator('#begin').wait_for()
    assert page.locator('#result').is_hidden()
    for width in WIDTHS:
        check_width(page, width)
    assert page.said == []


def test_more_of_one_class_and_one_in_full(page, address, photos):
    photo = sorted(photos.rglob('*.png'))[5]
    page.goto(address)
    page.set_input_files('#drop input', photo)
    page.wait_for_selector('#found li')
    page.select_option('#top', '20')
    page.locator('#found li').nth(19).wait_for()
    page.fill('#class', 'class9')
    page.locator('#class').blur()
    page.locator('#found li').nth(19).wait_for(state='detached')
    assert {name.split('/')[0] for name in page.locator('#found span').all_inner_texts()} == {'class9'}
    page.locator('#found .full').first.click()
    assert page.locator('#large').is_visible()
    page.evaluate("document.querySelector('#large img').decode()")
    assert page.locator('#large p').inner_text().startswith('class9/')
    page.keyboard.press('Escape')
    assert page.locator('#large').is_hidden()
    page.fill('#class', 'nothing')
    page.locator('#class').blur()
    page.wait_for_selector('#message.bad')
    assert "no class 'nothing'" in page.locator('#message').inner_text()
    # The browser itself notes a refusal.
    assert all('400' in text for text in page.said)


def test_the_verdict_is_shown(page, embedder, photos, tmp_path):
    from sreml_jax.search.batched import Finder

    embed(embedder, str(photos), tmp_path / 'index')
    photo = sorted(photos.rglob('*.png'))[5]
    for threshold, sentence, doubtful in (
        (-1.0, r'class\d+, by \d of 5 neighbors', 0),
        (0.9999, r'Unknown: nothing in this index is similar enough\.', 5),
    ):
        with served(Finder(embedder, Index(tmp_path / 'index'), 6, threshold=threshold)) as address:
            page.goto(address)
            page.set_input_files('#drop input', photo)
            page.wait_for_selector('#found li')
            assert re.fullmatch(sentence, page.locator('#verdict').inner_text())
            assert page.locator('#found .doubtful').count() == doubtful  # itself is not
    assert page.said == []


def test_a_photograph_that_is_dropped(page, address, photos):
    page.goto(address)
    drop = """async ([url, name]) => {
        const data = new DataTransfer();
        data.items.add(new File([await (await fetch(url)).blob()], name, {type: 'image/png'}));
        document.getElementById('drop').dispatchEvent(
            new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
    }"""
    page.evaluate(drop, ['picture/3', 'dropped <i>.png'])
    page.wait_for_selector('#found li')
    assert page.locator('#query figcaption').inner_text() == 'dropped <i>.png'
    assert page.said == []


def test_a_text_file_gets_a_polite_message(page, address, photos, tmp_path):
    page.goto(address)
    page.set_input_files('#drop input', next(photos.rglob('*.png')))
    page.wait_for_selector('#found li')
    (tmp_path / 'notes.jpg').write_text('no picture')
    page.set_input_files('#drop input', tmp_path / 'notes.jpg')
    page.wait_for_selector('#message.bad')
    assert page.locator('#message').inner_text() == 'notes.jpg: not an image'
    assert page.locator('#found li').count() == 6  # what was found before stays
    page.set_input_files('#drop input', next(photos.rglob('*.png')))
    page.wait_for_selector('#message:not(.bad)')


def test_the_pictures_of_the_readme(chromium, workdir, report, photos, embedder, tmp_path):
    embed(embedder, str(photos), tmp_path / 'index')
    run = tmp_path / 'run'
    shutil.copytree(workdir, run)
    with pytest.raises(UserError, match=r'report\.html is not there; make it by --mode=report'):
        readme_pictures.make(run, tmp_path / 'index', tmp_path / 'out')
    shutil.copy(report, run / 'report.html')
    Image.new('RGB', (60, 40), 'red').save(run / 'retrievals.png')
    program = [sys.executable, str(ROOT / 'launch' / 'readme_pictures.py'), f'--workdir={run}']
    program += [f'--index={tmp_path / "index"}', f'--out={tmp_path / "out"}']
    subprocess.run(program, cwd=tmp_path, check=True, timeout=120)
    drawn = (tmp_path / 'out' / 'demo_retrievals.png').read_bytes()
    assert drawn == (run / 'retrievals.png').read_bytes()
    for name in ('report', 'search'):
        for width in WIDTHS:
            with Image.open(tmp_path / 'out' / f'{name}_{width}.png') as picture:
                assert picture.size == (width, readme_pictures.HEIGHT)
                assert len(picture.convert('RGB').getcolors(2**24)) > 500  # not blank
