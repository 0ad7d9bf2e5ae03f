"""The student's scheduler as the service opens it, around a real model."""

from scripted_predictors import SECONDS
from tiny_models import write_model

from serving._items import Item
from serving._service_settings import ServiceSettings
from serving._student_service import open_student


def test_who_opens_the_student_is_told_when_its_thread_dies(tmp_path):
    folder, told = write_model(tmp_path / "student"), []
    scheduler = open_student(
        ServiceSettings(student=folder), on_death=lambda: told.append("death")
    ).scheduler

    def broken():
        raise RuntimeError("no clock")

    scheduler._turns._clock = broken
    answer = scheduler.submit(Item(id="a", prompt="it is", timeout_s=60.0)).result(SECONDS)
    scheduler.close()
    assert (answer.refusal, told) == ("unavailable", ["death"])
