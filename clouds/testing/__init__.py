"""Contract checks for components, and a pytest test of all components of a plugin.

A plugin's test file is three lines:

```python
from clouds.testing import component_tests

test_contract = component_tests("my-distribution")
```

Loss terms, samplers and augmentations have checks of their own, which take the built object.
"""

from __future__ import annotations

from clouds.testing.adapter import check_adapter
from clouds.testing.backbone import check_backbone
from clouds.testing.catalogued import check_by_name, component_tests
from clouds.testing.component import check_component
from clouds.testing.contract import ContractError
from clouds.testing.generator import check_generator
from clouds.testing.head import check_head
from clouds.testing.loss_term import check_loss_term
from clouds.testing.prompter import check_prompter
from clouds.testing.reading import check_augmentation, check_sampler
from clouds.testing.refiner import check_refiner

__all__ = [
    "ContractError",
    "check_adapter",
    "check_augmentation",
    "check_backbone",
    "check_by_name",
    "check_component",
    "check_generator",
    "check_head",
    "check_loss_term",
    "check_prompter",
    "check_refiner",
    "check_sampler",
    "component_tests",
]
