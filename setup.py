"""The packages of evolve: what lies in evolve/, and two folders of the checkout that install inside it."""

from setuptools import find_packages, setup

MAPPED = ["evolve.benchmarks", "evolve.benchmarks.speed", "evolve.scenarios"]

setup(packages=find_packages(include=["evolve", "evolve.*"]) + MAPPED)
