"""nbgrader's settings for the homework: `cd notebooks/homework`, then nbgrader's own commands."""

import atexit
import os
import sys
from contextlib import suppress
from pathlib import Path

from nbgrader.converters import Autograde, GenerateAssignment
from nbgrader.preprocessors import ClearSolutions, DeduplicateIds, OverwriteCells

from course.authoring import STUB
from course.authoring.release import ClearAnswers
from course.grading.definitions import said_of

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "attention"
c.ClearSolutions.code_stub = STUB
c.GenerateAssignment.preprocessors = [
    ClearAnswers if step is ClearSolutions else step
    for step in GenerateAssignment.preprocessors.default()
]
# the .py half of a source holds the solutions: it goes neither to learners nor beside their code
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", "feedback", "*.py"]
# nbgrader calls alembic by its name: find it beside this Python, activated or not
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

# nbgrader gives 0 points to a test cell that writes to stderr, and a progress bar or a warning does.
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"(?s).*"


class ForgetCopies(DeduplicateIds):
    """A cell that a learner copied is no second exercise; without this, the whole class stops."""

    def preprocess_cell(self, cell, resources, cell_index):
        cell, resources = super().preprocess_cell(cell, resources, cell_index)
        if cell.metadata.get("nbgrader") == {}:
            del cell.metadata["nbgrader"]
        return cell, resources


restored = []  # "STUDENT, ASSIGNMENT: cells"
answered = {}  # (assignment, the name written on it) -> students


class Restore(OverwriteCells):
    """A test cell that a learner deleted or converted comes back; without this, its points go."""

    def preprocess(self, nb, resources):
        before = {cell.metadata.nbgrader.get("grade_id"): cell.cell_type
                  for cell in nb.cells if "nbgrader" in cell.metadata}
        nb, resources = super().preprocess(nb, resources)
        with self.gradebook:
            book = self.gradebook.find_notebook(self.notebook_id, self.assignment_id)
            points = {cell.name: cell.max_score for cell in book.grade_cells}
            written = {cell.name for cell in book.solution_cells}
            back = [cell for cell in book.source_cells
                    if cell.name in points and cell.name not in before]
            # at the end: there, everything that a test needs is defined
            nb.cells += [self.missing_cell_transform(cell, points[cell.name], cell.name in written)
                         for cell in back]
        who = resources["nbgrader"]
        cells = [cell.source for cell in nb.cells if cell.cell_type == "code"]
        for name in said_of(cells, "me"):
            answered.setdefault((who["assignment"], name), []).append(who["student"])
        names = [cell.name for cell in back] + [
            cell.metadata.nbgrader.grade_id for cell in nb.cells
            if before.get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.cell_type)
            != cell.cell_type]
        if names:
            restored.append(f"{who['student']}, {who['assignment']}: {', '.join(names)}")
        return nb, resources


@atexit.register
def tell():
    if restored:
        print("Deleted or converted cells were put back, and count:", *restored, sep="\n  ",
              file=sys.stderr)
    for (assignment, name), students in answered.items():
        if len(students) > 1:
            print(f"{assignment}: {', '.join(students)} answer as {name!r}: look yourself",
                  file=sys.stderr)


ours = {DeduplicateIds: ForgetCopies, OverwriteCells: Restore}
c.Autograde.sanitize_preprocessors = [
    ours.get(step, step) for step in Autograde.sanitize_preprocessors.default()
]

# A submission is a stranger's program. One that hangs, dies or eats the memory costs its author
# points, and nobody else's: a cell may run this long, a kernel may take this much.
c.ExecutePreprocessor.timeout = 300
c.ExecutePreprocessor.interrupt_on_timeout = True
c.ExecutePreprocessor.iopub_timeout = 60
c.ExecutePreprocessor.startup_timeout = 120
os.environ["COURSE_PROGRESS"] = "off"  # what is marked here is not the teacher's own progress
with suppress(ImportError, ValueError, OSError):  # where the system can limit a process: Linux
    import resource

    limit = int(float(os.environ.get("COURSE_KERNEL_GB", 4)) * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
