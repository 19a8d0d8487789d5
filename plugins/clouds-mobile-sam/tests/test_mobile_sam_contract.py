"""The component at its full size keeps the contract of refiners, with random weights."""

import pytest
from clouds.testing import component_tests

test_contract = pytest.mark.slow(component_tests("clouds-mobile-sam"))  # pictures of 1024 x 1024: half a minute
