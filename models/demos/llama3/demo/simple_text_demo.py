"""The text demo under its earlier path; its code is in `models/tt_transformers/demo/simple_text_demo.py`.

pytest models/demos/llama3/demo/simple_text_demo.py -k "performance and batch-1"
"""

from models.tt_transformers.demo.simple_text_demo import test_simple_text_demo  # noqa: F401
