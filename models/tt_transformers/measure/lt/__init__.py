"""`lt`: runs of the demo and of tests, queued, watched and put into tables, in a terminal or from scripts (docs/lt.md).

| module | holds |
| --- | --- |
| `commands` | what can be run: commands, models, devices |
| `runs` | the runs on disk: a folder for each, and its state |
| `supervisor` | the program that runs one pytest process |
| `queue` | starts runs, so many at a time |
| `results` | a run's figures, from its JSON record and pytest's report |
| `table` | Markdown tables of runs |
| `front` | Pareto fronts of precision settings |
| `cli` | the script commands |
| `screen`, `log_view` | the terminal screen |
"""
