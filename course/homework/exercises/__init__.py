"""Every exercise of the course by its name, in the order of the lessons."""

from course.homework.checking import Exercise
from course.homework.exercises import (
    attention,
    decoding,
    exam,
    foundations,
    masking,
    seq2seq,
    text,
    training,
    transformer,
)

ASSIGNMENTS = (
    foundations, seq2seq, attention, masking, transformer, text, training, decoding, exam
)
EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise for module in ASSIGNMENTS for exercise in module.EXERCISES
}
