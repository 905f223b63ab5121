import sys, tempfile, importlib, time
from pathlib import Path
from .case import run; sys.path.insert(0,"tests")
mod = importlib.import_module(f"tests.corpus.{sys.argv[1]}")
n=bad=0
for c in mod.cases():
    with tempfile.TemporaryDirectory() as d:
        t=time.time(); o=run(c, Path(d).resolve()); dt=time.time()-t
    n+=1
    if o.problems or dt>0.2:
        bad+=1; print(f"{c.name} ({dt:.2f}s)"); [print("   ",p[:700]) for p in o.problems]
print(n,bad)
