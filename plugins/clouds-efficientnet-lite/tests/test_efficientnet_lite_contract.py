"""The backbone keeps the contract."""

from clouds.testing import component_tests

test_contract = component_tests("clouds-efficientnet-lite")
