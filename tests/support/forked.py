"""Runs many commands of the program in children of one process, so that only the first pays for imports.

Reads a JSON list of jobs, writes a JSON list of (exit code, output, error) in their order. A job is
{'argv': [...]} for the program, with 'check': true to parse and check it only; or {'code': '...'} for Python.
It may have an 'environment' of its own. If each job only checks or is 'light', tensorflow is not imported.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from absl import app

from support.paths import ROOT, TESTS


def run(place: Path, jobs: list[dict]) -> list[list]:
    """Does the jobs in the folder `place`, in children of a new process; returns what `main` writes."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', __file__],
        input=json.dumps(jobs),
        cwd=place,
        env=os.environ | {'PYTHONPATH': os.pathsep.join((str(ROOT), str(TESTS)))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main() -> None:
    """Does the jobs one after another; each in a process of its own, which the next cannot feel."""
    jobs = json.load(sys.stdin)
    import sreml_jax.cli.validation

    if not all(job.get('check') or job.get('light') for job in jobs):
        from sreml_jax.data.tensorflow_import import import_tensorflow

        import_tensorflow()
        import sreml_jax.data.pipeline
        import sreml_jax.evaluate
        import sreml_jax.export
        import sreml_jax.search.embed
        import sreml_jax.train  # noqa: F401
    forked = multiprocessing.get_context('fork')
    done = []
    for job in jobs:
        with tempfile.TemporaryFile('w+') as output, tempfile.TemporaryFile('w+') as error:
            process = forked.Process(target=work, args=(job, output.fileno(), error.fileno()))
            process.start()
            process.join()
            texts = [file.seek(0) or file.read() for file in (output, error)]
        done.append([process.exitcode, *texts])
    json.dump(done, sys.stdout)


def work(job: dict, output: int, error: int) -> None:
    """Does one job, with its stdout and stderr in these files; ends the process."""
    os.dup2(output, 1)
    os.dup2(error, 2)
    try:
        code = do(job)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def do(job: dict) -> int | None:
    """Does one job; returns its exit code."""
    os.environ.update(job.get('environment', {}))
    if 'code' in job:
        exec(compile(job['code'], 'a block of README.md', 'exec'), {'__name__': '__main__'})
        return 0
    from sreml_jax import main
    from sreml_jax.cli import command_line, flags, validation

    sys.argv = ['sreml', *job['argv']]
    if job.get('check'):
        command_line.parse(sys.argv)
        flags.check_needed(flags.MODE.value)
        validation.check(flags.CONFIG.value)
        return 0
    return app.run(main.main, flags_parser=command_line.parse)


if __name__ == '__main__':
    main()
