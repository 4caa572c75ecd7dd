"""Benchmarks: time, memory and floating-point operations of training steps and sampling, beside a public peer in the same run."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not spin on cores that others need
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler, which counts bytes on the CPU, is silent
