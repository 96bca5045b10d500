"""Asked to stop: by a file or a signal, remembered until the work can be saved."""

import contextlib
import os
import signal
import subprocess
import threading
import time
import types

import pytest
import torch

from guidebook.runs import preemption
from guidebook.runs.manifest import here, me
from guidebook.runs.preemption import SIGNALS, Preempted, stopping
from guidebook.runs.run import open_run
from guidebook.runtime import distributed


@pytest.fixture
def run(runs, tiny):
    return open_run(tiny)


def test_nobody_asked(run):
    with stopping(run) as stop:
        assert not stop.asked()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_remembered_and_ends_nothing_at_once(run, number):
    with stopping(run) as stop:
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert stop.asked()
        assert stop.asked()  # until it is obeyed


@pytest.mark.parametrize("number", SIGNALS)
def test_afterwards_a_signal_means_what_it_meant_before(run, number):
    before = signal.getsignal(number)
    with contextlib.suppress(ZeroDivisionError), stopping(run):
        assert signal.getsignal(number) is not before
        raise ZeroDivisionError
    assert signal.getsignal(number) is before


@pytest.fixture
def terminal():
    """SIGINT as it is for what a terminal runs: whoever starts tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_remembered_once_and_interrupts_the_second_time(run, terminal):
    with stopping(run) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert stop.asked()
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_the_background_ctrl_c_stays_ignored(run, terminal):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopping(run) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert not stop.asked()


def test_a_file_is_seen_within_a_tenth_of_a_second_and_gone_when_it_is_obeyed(run):
    with stopping(run) as stop:
        stop.asked()
        (run.path / "STOP").touch()
        started = time.monotonic()
        while not stop.asked():
            time.sleep(0.001)
        assert time.monotonic() - started < 0.2
        with pytest.raises(Preempted) as stopped:
            stop.obey("drawing after 20 of 50 images")
    assert stopped.value.code == 75
    assert str(stopped.value) == "stopped drawing after 20 of 50 images, saved; run again to go on"
    assert not (run.path / "STOP").exists()


def test_whoever_stops_a_run_stops_its_variants(run):
    variant = run.variant("x", train={"caption_dropout": 0.5})
    (run.path / "STOP").touch()
    with stopping(variant) as stop:
        assert stop.asked()
        with pytest.raises(Preempted):
            stop.obey("")
    assert not (run.path / "STOP").exists()


def test_in_a_thread_the_file_is_heard_and_handlers_are_left_alone(run):
    before, heard = [signal.getsignal(n) for n in SIGNALS], []

    def work():
        with stopping(run) as stop:
            heard.append([signal.getsignal(n) for n in SIGNALS] == before)
            (run.path / "STOP").touch()
            heard.append(stop.asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [True, True]


def test_outside_of_any_work_no_stop_is_ever_asked(run):
    (run.path / "STOP").touch()
    assert not preemption.current().asked()
    with stopping(run) as stop:
        assert preemption.current() is stop
        assert preemption.current().asked()
    assert not preemption.current().asked()


@pytest.mark.parametrize("when", ["before", "inside"])
def test_nested_work_hears_what_the_outer_one_hears_and_nothing_is_lost(run, when):
    other = run.variant("x", train={"caption_dropout": 0.5})
    with stopping(run) as outer:
        if when == "before":
            os.kill(os.getpid(), signal.SIGUSR1)
        with stopping(other) as inner:
            if when == "inside":
                os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.01)
            assert preemption.current() is inner
            assert inner.asked()
        assert preemption.current() is outer
        assert outer.asked()
        with pytest.raises(Preempted):
            outer.obey("")


def test_while_the_others_wait_for_one_process_it_asks_none_of_them(run, monkeypatch):
    """Else it never returns: they are at another collective call."""
    monkeypatch.setattr(distributed, "world", lambda: types.SimpleNamespace(num_processes=2, is_main_process=True))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_: pytest.fail("the others do not answer"))
    with stopping(run) as stop, distributed.solo():
        assert not stop.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert stop.asked()
        with pytest.raises(Preempted):
            stop.obey("")


def test_a_stop_for_a_command_that_is_gone_is_not_meant_for_the_next_and_a_persons_is(run):
    stop = run.path / "STOP"
    gone = subprocess.Popen(["true"])
    gone.wait()
    for text, stays in (
        ("", True), (me(), True), (f"{here()}-{gone.pid}", False), ("another-host-0123abcd-1", False), ("odd", False),
        ("\udcff\0", False),
    ):  # fmt: skip
        stop.write_bytes(text.encode(errors="surrogateescape"))
        preemption.drop_stale(stop)
        assert stop.exists() == stays, text
    preemption.drop_stale(stop)
    preemption.request(stop)
    with stopping(run) as asked:
        assert asked.asked()
