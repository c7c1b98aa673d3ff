from models.common import console
from models.tt_transformers.measure.lt.cli import main

console.run(main)
