"""Makes the pictures of the README: what a run has drawn, its report and the search page in a browser.

python launch/readme_pictures.py --workdir=runs/glyphs --index=INDEX --out=docs

Needs what `--mode=report` has written into the workdir, the extra `test`, and Debian's chromium. Writes
demo_retrievals.png, and report and search page as <name>_<width>.png at 1400 and 400 pixels.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sreml_jax.runtime.errors import UserError  # noqa: E402
from sreml_jax.search.index import Index  # noqa: E402

WIDTHS = (1400, 400)
HEIGHT = 1000  # pixels; of a longer page the upper part is shown


def main() -> None:
    """Makes what the flags ask for."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--workdir', type=Path, required=True, help='of a trained run')
    p.add_argument('--index', type=Path, required=True, help='that it has made; its first image is the query')
    p.add_argument('--out', type=Path, required=True, help='a folder for the pictures')
    args = p.parse_args()
    try:
        make(args.workdir, args.index, args.out)
    except UserError as error:
        p.error(str(error))


def make(workdir: Path, index: Path, out: Path) -> None:
    """Writes the pictures; raises UserError where something is missing."""
    report, drawn, chromium = workdir / 'report.html', workdir / 'retrievals.png', shutil.which('chromium')
    for path, maker in ((report, '--mode=report'), (drawn, '--mode=eval')):
        if not path.exists():
            raise UserError(f'{path} is not there; make it by {maker} --workdir={workdir}')
    if not chromium:
        raise UserError("there is no chromium; install Debian's package of that name")
    from playwright import sync_api

    query = Index(index).items([0])[0].path
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(drawn, out / 'demo_retrievals.png')
    with sync_api.sync_playwright() as playwright, served(workdir, index) as address:
        browser = playwright.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        for width in WIDTHS:
            page = browser.new_page(viewport={'width': width, 'height': HEIGHT})
            page.goto(report.resolve().as_uri())
            shoot(page, out / f'report_{width}.png')
            page.goto(address)
            page.set_input_files('input', query)
            page.wait_for_selector('#found li')
            shoot(page, out / f'search_{width}.png')
            page.close()
        browser.close()


def shoot(page, path: Path) -> None:
    """Writes what the window shows, once every picture is decoded."""
    page.evaluate('Promise.allSettled([...document.images].map(i => i.decode()))')
    page.screenshot(path=path)
    print(path)


@contextmanager
def served(workdir: Path, index: Path) -> Iterator[str]:
    """Serves the search page by the program itself; yields its address."""
    command = [sys.executable, '-m', 'sreml_jax.main', '--mode=serve', '--port=0']
    command += [f'--workdir={workdir.resolve()}', f'--index={index.resolve()}']
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            if not (line := process.stdout.readline()):
                raise UserError('the search page cannot be served; the reason is above')
            yield line.split()[0]
        finally:
            process.terminate()


if __name__ == '__main__':
    main()
