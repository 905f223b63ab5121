"""The training state: exact, readable by the safetensors package, and whole after a kill at any moment."""

import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from prefeval import checkpoint, files
from prefeval.checkpoint import (
    clear_state,
    generator_states,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
    set_generator_states,
    write_tensors,
)
from prefeval.errors import ConfigError, RunError

ID = {"learning_rate": 1e-5, "betas": (0.9, 0.999), "model": "abc"}


def tensors_of(value: float) -> dict[str, torch.Tensor]:
    return {"weight.a": torch.full((3, 5), value), "exp_avg.a": torch.full((4,), -value)}


def save(folder, step):
    save_checkpoint(folder, tensors_of(float(step)), {"step": step}, identity=ID)


def check_whole(folder, allowed):
    found = load_checkpoint(folder, identity=ID)
    assert found is not None
    step = found.scalars["step"]
    assert step in allowed
    for name, want in tensors_of(float(step)).items():
        assert torch.equal(found.tensors[name], want)
    return step


def test_every_type_is_read_back_by_the_safetensors_package(tmp_path):
    torch.manual_seed(0)
    base = torch.randn(7, 3)
    given = {
        "b": base.bool(),
        "u8": torch.arange(5, dtype=torch.uint8),
        "bf16": base.bfloat16(),
        "f32": base,
        "transposed": base.T,
        "f64": base.double(),
        "i64": torch.arange(3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(base.half()),
    }
    write_tensors(tmp_path / "t.safetensors", given)
    read = load_file(tmp_path / "t.safetensors")
    assert read.keys() == given.keys()
    for name, tensor in given.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor.detach())


def test_a_type_outside_the_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="complex64"):
        write_tensors(tmp_path / "t.safetensors", {"z": torch.zeros(1, dtype=torch.complex64)})


def test_only_the_latest_state_is_kept_and_scalars_are_exact(tmp_path):
    assert load_checkpoint(tmp_path / "none", identity=ID) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, tensors_of(step), {"step": step, "lr": 0.1 + 0.2, "nan": float("nan")}, identity=ID)
    assert check_whole(tmp_path, {3}) == 3
    found = load_checkpoint(tmp_path, identity=ID)
    assert found is not None
    assert found.scalars == {"step": 3, "lr": 0.30000000000000004, "nan": None}
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_another_configuration_is_refused_by_name(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"learning_rate: 1e-05 there, 0.001 now") as caught:
        load_checkpoint(tmp_path, identity={**ID, "learning_rate": 1e-3})
    assert "model" not in str(caught.value).split("(")[1].split(")")[0]
    with pytest.raises(ConfigError, match="seed: None there, 3 now"):
        load_checkpoint(tmp_path, identity={**ID, "seed": 3})


@pytest.mark.parametrize("name", ["state.json", "tensors"])
def test_a_damaged_state_is_said_to_be_damaged_and_can_be_saved_over(tmp_path, name):
    save(tmp_path, 1)
    path = tmp_path / "state.json" if name == "state.json" else next(tmp_path.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunError, match="delete that directory"):
        load_checkpoint(tmp_path, identity=ID)
    save(tmp_path, 2)
    check_whole(tmp_path, {2})


def test_a_failure_at_any_file_operation_leaves_a_whole_state(tmp_path, monkeypatch):
    class Stop(BaseException):
        pass

    calls, limit = 0, 0

    def failing(function):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == limit:
                raise Stop
            return function(*args, **kwargs)

        return wrapped

    for module, name in [(os, "fsync"), (os, "replace"), (os, "chmod")]:
        monkeypatch.setattr(module, name, failing(getattr(module, name)))
    monkeypatch.setattr(checkpoint, "write_json", failing(files.write_json))
    save(tmp_path, 0)
    total, seen, last = calls, set(), 0
    assert total >= 6
    for point in range(1, total + 1):
        calls, limit = 0, point
        with pytest.raises(Stop):
            save(tmp_path, point)
        limit = 0
        reached = check_whole(tmp_path, {last, point})
        seen.add(reached == point)
        save(tmp_path, last := 100 + point)
        check_whole(tmp_path, {last})
    assert False in seen


def test_kill_9_leaves_a_whole_state(tmp_path):
    save(tmp_path, 0)
    highest, delay, kills = 0, 0.004, 0
    while kills < 5 or (not highest and delay < 30):  # on a busy machine a child may be killed before its first save
        child = os.fork()
        if child == 0:
            step = highest
            while True:
                step += 1
                save(tmp_path, step)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        highest = check_whole(tmp_path, range(highest, 10**6))
        kills, delay = kills + 1, delay * 1.7
    assert highest > 0
    save(tmp_path, 7)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_clear_state_removes_its_own_files_only(tmp_path):
    state = tmp_path / "fit"
    save(state, 1)
    (state / "bad_batch.json").write_text("{}")
    (state / "notes.txt").write_text("mine")
    assert has_checkpoint(state)
    clear_state(state)
    assert [p.name for p in state.iterdir()] == ["notes.txt"]
    (state / "notes.txt").unlink()
    save(state, 1)
    clear_state(state)
    assert not state.exists()
    clear_state(state)


def test_generator_states_repeat_the_draws():
    device = torch.device("cpu")
    states = generator_states(device)
    first = torch.rand(4)
    assert not torch.equal(first, torch.rand(4))
    stacked = {name: torch.stack([torch.zeros_like(state), state]) for name, state in states.items()}
    for given in (states, {name: rows[1] for name, rows in stacked.items()}):  # torch itself crashes on the second
        set_generator_states(given, device)
        assert torch.equal(first, torch.rand(4))
