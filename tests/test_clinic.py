"""Lesson 11: each tool passes the healthy case, and finds the patients that the list names."""

import pytest

from course import progress
from course.clinic import Case, by_layer, examine, overfit, padding, shuffled, twin, world
from course.homework import check, i_am, illnesses, patient
from course.homework.illnesses import TOOLS, apart, illness_of, judge
from course.homework.patients import PLANTED, case_with
from course.homework.report import patient_line
from course.text import encode_pairs

STEPS = 80
KNOWN = illnesses.illnesses()
TRAINED = {"shuffled", "overfit"}  # the tools that ask a trained case


@pytest.fixture(scope="module")
def healthy():
    return Case(STEPS).fit()


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setattr("course.progress.here", "")


def quick(case: Case, monkeypatch) -> set[str]:
    """What reacts, by the tools that train nothing."""
    for tool in TRAINED:
        monkeypatch.setattr(f"course.clinic.{tool}", lambda case: 0.0)
    return {tool for tool, hit in examine(case, Case(STEPS)).items() if hit} - TRAINED


def test_the_healthy_case_passes_every_tool(healthy):
    found = examine(healthy, Case(STEPS))
    assert [*found] == [*TOOLS]
    assert not [tool for tool, hit in found.items() if hit]


@pytest.mark.parametrize("illness", KNOWN)
def test_a_patient_is_told_from_the_healthy_by_the_tools_that_are_named(illness, monkeypatch):
    found = quick(case_with(illness)(STEPS), monkeypatch)
    assert found == {*KNOWN[illness].reacts} - TRAINED


def test_what_needs_training_is_seen_after_it():
    ill = case_with("cross_to_itself")(STEPS).fit()
    assert shuffled(ill) == 0 and by_layer(ill)["encoder.layers.0"][0] == 0
    assert overfit(case_with("warmup_stands_still")(STEPS)) > 3


def test_without_smoothing_its_fault_is_gone_and_padding_in_the_loss_is_not():
    for illness, cured in (("smoothing_over_pads", True), ("pad_in_loss", False)):
        kind = case_with(illness)
        kind.smoothing = 0.0
        assert (padding(kind(STEPS))[1] < 1e-5) == cured


def test_a_patient_differs_in_its_outputs_or_its_loop_and_not_in_its_names():
    assert {*PLANTED} == {*KNOWN} and len(KNOWN) == 16
    for illness in KNOWN:
        case = case_with(illness)(STEPS)
        assert type(case).__name__ == "Case"
        assert illness == "pieces_from_test" or str(case.model) == str(Case(STEPS).model)


def test_the_twin_names_the_place():
    places = {"no_scale": "encoder.layers.0.self_attention", "mask_inverted": "src_mask",
              "not_shifted": "tgt_in", "pad_in_loss": "loss", "pieces_from_test": "pieces",
              "untied": "parameters", "positions_by_row": "positions"}
    for illness, place in places.items():
        assert twin(case_with(illness)(STEPS), Case(STEPS)).startswith(place)


def test_every_wrong_diagnosis_gets_an_answer_that_is_true():
    for has, ill in KNOWN.items():
        assert {*ill.told} <= {*KNOWN} - {has} and {*ill.reacts} <= {*TOOLS}
        for said in {*KNOWN} - {has}:
            right, text = judge("patient_1", said, learner_with(has))
            assert right is False and KNOWN[said].title in text and apart(has, said) in text
            if {*ill.reacts} == {*KNOWN[said].reacts}:
                assert said in ill.told, (has, said)


def learner_with(illness: str) -> str:
    """A learner whose first patient has this illness."""
    return next(str(i) for i in range(1000) if illness_of(1, str(i)) == illness)


def test_the_number_says_nothing():
    drawn = [[illness_of(n, who) for n in range(1, 17)] for who in ("Ann", "Bob")]
    assert all(sorted(names) == sorted(KNOWN) for names in drawn)
    assert sum(a == b for a, b in zip(*drawn)) < 6
    with pytest.raises(ValueError, match="1 to 16"):
        illness_of(17, "Ann")


def test_a_patient_is_asked_answered_and_kept(kept):
    i_am("Ann")
    has = illness_of(7, "Ann")
    wrong = next(name for name in KNOWN if name != has)
    assert all(name in str(check("patient_7")) for name in KNOWN)
    assert not check("patient_7", "flu").passed and not check("patient_7", wrong).passed
    entry = progress.load()["exercises"]["patient_7"]
    assert entry["failures"] == 1 and "passed" not in entry
    said = check("patient_7", has.replace("_", " "))
    assert said.passed and KNOWN[has].planted in said.message
    assert patient_line().startswith("1 of 16 diagnosed: 7 (")
    assert type(patient(7, 1)).__mro__[1] is Case


def test_on_a_page_each_name_opens_to_its_verdict(monkeypatch):
    monkeypatch.setenv("COURSE_PAGE", "1")
    card = check("patient_1")._repr_html_()
    assert card.count("<details>") == 16 and card.count("✓") == 1
    monkeypatch.delenv("COURSE_PAGE")
    assert "<details>" not in check("patient_1")._repr_html_()


def test_the_world_holds_out_what_it_says(healthy):
    train, held_out = world()
    assert not {*train} & {*held_out} and len(held_out) == 60
    assert not any("fox" in english for _, english in train)
    ids = encode_pairs(healthy.bpe, train[:1])[0]
    assert healthy.bpe.decode(ids[1]) == train[0][1]
