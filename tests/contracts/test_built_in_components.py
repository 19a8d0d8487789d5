"""Every built-in keeps the contract that plugin authors check their own components against."""

from pathlib import Path

from clouds.testing import component_tests

PROMPTS = Path(__file__).with_name("prompts.txt")

test_contract = component_tests("clouds-dgss", options={"prompter:file": {"path": str(PROMPTS)}})
