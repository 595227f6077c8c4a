import os

# before torch is imported: every notebook and subprocess of the tests inherits these
os.environ.setdefault("COURSE_SCALE", "smoke")
os.environ.setdefault("COURSE_OFFLINE", "1")
os.environ["COURSE_PROGRESS"] = "off"  # tests are not the learner's progress
# the tests' tensors are small, and the workers of pytest share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
