"""Every component keeps the contract of its kind."""

from clouds.testing import component_tests

test_contract = component_tests("clouds-example")
