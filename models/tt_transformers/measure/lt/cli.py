"""`lt` from a terminal or a script.

lt                                        the screen
lt run COMMAND [-- PYTEST OPTIONS]        queues runs, waits for them; exit status 0 if all passed
lt table                                  the runs and their figures in Markdown
lt pareto --output FILE.png               token accuracy against speed or bytes, of many precision settings
"""

import argparse
import shlex
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from models.common import whole_file
from models.tt_transformers.measure.lt import commands, front, runs, table
from models.tt_transformers.measure.lt.results import Result, read
from models.tt_transformers.measure.lt.scheduler import Scheduler

POLL = 0.3  # seconds


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    # What follows `--` is pytest's, and may look like an option of lt.
    end = argv.index("--") if "--" in argv else len(argv)
    parser = _parser()
    options = parser.parse_args(argv[:end])
    options.pytest_options = shlex.join(argv[end + 1 :])
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {name:<42}{text}" for name, text in commands.descriptions().items())
    parser = argparse.ArgumentParser(
        prog="lt",
        description=__doc__,
        epilog=f"commands of `lt run`:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--state", type=Path, default=runs.FOLDER, metavar="FOLDER", help="of the runs (default: generated/lt)"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1; on a card always 1)"
    )
    parser.set_defaults(run=_screen)
    subparsers = parser.add_subparsers(metavar="COMMAND")
    run = subparsers.add_parser("run", help="queue runs and wait for them")
    run.add_argument("command", nargs="?", help="names with commas between them, or one pytest line in quotes")
    run.add_argument("--queued", action="store_true", help="instead of new runs, those that are queued already")
    run.set_defaults(run=_run)
    shown = subparsers.add_parser("table", help="print the runs in Markdown")
    shown.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead")
    shown.set_defaults(run=_table)
    pareto = subparsers.add_parser("pareto", help="compare precision settings and plot the front")
    pareto.add_argument(
        "--from-json", type=Path, metavar="FOLDER", help="of JSON files, one a setting (default: pairs of formats)"
    )
    pareto.add_argument("--output", type=Path, required=True, metavar="FILE.png")
    pareto.set_defaults(run=_pareto)
    for subparser in (run, pareto):
        subparser.add_argument(
            "--model", default="", help="names with commas between them (default: HF_MODEL, else the bundled model)"
        )
        subparser.add_argument(
            "--device", default="", help="names with commas between them (default: MESH_DEVICE, else N150)"
        )
    for subparser in (run, shown, pareto):  # accepted after the command too
        subparser.add_argument("--state", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    for subparser in (run, pareto):
        subparser.add_argument("--jobs", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _screen(options) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ValueError("the screen needs a terminal; scripts use the commands run, table and pareto")
    from models.tt_transformers.measure.lt.screen import Lt  # scripts need no Textual

    return Lt(Scheduler(runs.Runs(options.state), options.jobs)).run() or 0


def _run(options) -> int:
    folder = runs.Runs(options.state)
    scheduler = Scheduler(folder, options.jobs)
    if options.queued:
        if options.command:
            raise ValueError(f"command {options.command!r} is given, and --queued too; give one of them")
        chosen = [run for run in folder.all() if run.state() == runs.QUEUED]
    else:
        if not options.command:
            raise ValueError("no command is given; give one, or --queued")
        specs = commands.specs(options.command, options.model, options.device, options.pytest_options)
        chosen = [folder.add(spec) for spec in specs]
    return _status(wait(scheduler, chosen))


def _table(options) -> int:
    text = table.markdown([read(run) for run in runs.Runs(options.state).all()])
    if options.output is None:
        print(text, end="")
    else:
        whole_file.write(options.output, text)
    return 0


def _pareto(options) -> int:
    whole_file.check_writable(options.output, "--output")
    command = commands.PARETO if options.from_json is None else commands.PARETO_FROM_JSON
    given = (options.model, options.device, options.pytest_options, options.from_json or commands.CONFIGURATIONS)
    specs = commands.specs(command, *given)
    if len({(spec.model, spec.device) for spec in specs}) > 1:
        raise ValueError("a Pareto front is of one model on one device; give one of each")
    folder = runs.Runs(options.state)
    scheduler = Scheduler(folder, options.jobs)
    results = wait(scheduler, [folder.add(spec) for spec in specs])
    print(front.write(results, options.output))
    return _status(results)


def _status(results: list[Result]) -> int:
    return int(any(result.state != runs.PASSED for result in results))


def wait(scheduler: Scheduler, chosen: list[runs.Run]) -> list[Result]:
    """Starts the chosen runs in turn, and prints each change of a state. Returns their results when all have ended.

    An interrupt or SIGTERM cancels those that have not ended, waits for them and raises KeyboardInterrupt.
    """
    shown = {}
    folders = {run.folder for run in chosen}
    with _interrupts() as interrupted:
        while True:
            results = [read(run) for run in chosen]
            for result in results:
                if shown.get(result.run.name) != result.state:
                    shown[result.run.name] = result.state
                    print(_line(result), flush=True)
            if all(result.is_final for result in results):
                break
            if interrupted:
                for result in results:
                    if not result.is_final:
                        result.run.cancel()
            scheduler.tick(lambda run: run.folder in folders)
            time.sleep(POLL)
    if interrupted:
        raise KeyboardInterrupt
    return results


@contextmanager
def _interrupts():
    """A list that SIGINT and SIGTERM fill, so that a loop can end in order."""
    received = []
    previous = {
        kind: signal.signal(kind, lambda kind, _: received.append(kind)) for kind in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)


def _line(result: Result) -> str:
    named = dict(zip(table.COLUMNS, table.cells(result)))
    run = ", ".join(filter(None, (named["command"], named["model"], named["device"])))
    facts = [f"{name} {named[name]}" for name in table.COLUMNS[5:] if named[name]]
    line = f"{named['run']} {run}: {', '.join([result.state, *facts])}"
    return f"{line}\n     log: {result.run.folder / 'log.txt'}" if result.state == runs.FAILED else line
