"""A notice is kept, whenever it comes."""

import signal
import time

import numpy as np
import pytest

from bigcl import notice as module
from bigcl import trainer as trainers
from bigcl.notice import Interrupted, Notice
from bigcl.trainer import Trainer


def test_what_comes_while_processes_agree_is_kept_for_the_next_time(monkeypatch):
    notice = Notice()

    def gathered(part):
        """The others, too, have had none; meanwhile this process gets one."""
        notice.keep(signal.SIGTERM, None)
        return [part, bytes([0])]

    monkeypatch.setattr(module, "gathered", gathered)
    notice.obey("here")
    with pytest.raises(Interrupted, match="stopped there") as raised:
        notice.obey("there")
    assert raised.value.signal == signal.SIGTERM


def test_what_comes_while_processes_agree_after_a_step_is_kept(monkeypatch):
    trainer = object.__new__(Trainer)
    trainer.notice, trainer.steps, trainer.asked, trainer.ask_at = Notice(), 100, (0, time.monotonic()), 1

    def gather(own):
        trainer.notice.keep(signal.SIGUSR1, None)
        return np.stack([own, np.array([0, 0.5])])

    monkeypatch.setattr(trainers.multihost_utils, "process_allgather", gather)
    monkeypatch.setattr(trainers.jax, "process_count", lambda: 2)
    assert not trainer.stopping(1)
    assert 1 < trainer.ask_at <= 3 and trainer.stopping(trainer.ask_at)
    assert trainer.notice.signal == signal.SIGUSR1


def test_the_notice_of_another_process_stops_this_one(monkeypatch):
    notice = Notice()
    monkeypatch.setattr(module, "gathered", lambda part: [part, bytes([signal.SIGTERM])])
    with pytest.raises(Interrupted):
        notice.obey("here")
    assert notice.signal == signal.SIGTERM
