import os
import signal

# before torch is imported: every notebook and subprocess of the tests inherits these
os.environ.setdefault("COURSE_SCALE", "smoke")
os.environ.setdefault("COURSE_OFFLINE", "1")
os.environ["COURSE_PROGRESS"] = "off"  # tests are not the learner's progress
# the tests' tensors are small, and the workers of pytest share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

# under nohup, or in a shell's background, these are ignored; the tests of stopping need them
for name, usual in (("SIGHUP", signal.SIG_DFL), ("SIGINT", signal.default_int_handler)):
    number = getattr(signal, name, None)  # Windows knows no SIGHUP
    if number is not None and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)
