"""python -m tests.corpus"""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # tiny.py

from .model_cases import forget
from .table import table

if __name__ == "__main__":
    text, wrong = table()
    forget()
    sys.stdout.write(text)
    sys.exit(1 if wrong else 0)
