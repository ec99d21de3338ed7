"""Classes that YAML and the command line may name without their module."""

import pkgutil
from importlib import import_module

import data_modules
import lightning_modules.jobs
import lightning_modules.methods


def import_all() -> None:
    """Imports every method, job and DataModule, so that jsonargparse knows their names."""
    for package in (lightning_modules.methods, lightning_modules.jobs, data_modules):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not module.ispkg:
                import_module(module.name)
