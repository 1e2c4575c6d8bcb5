"""What pyproject.toml cannot say: the one copy of our YAML files, at the top of the repository, goes into the wheel too."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("configs/**/*.yaml", "configs/**/*.sh", "experiments/*.yaml", "experiments/scales/*.yaml",
           "experiments/sweeps/**/*.yaml", "shards/recipes/*.yaml")  # fmt: skip


class BuildWithFiles(build_py):
    """An editable install reads the files where they are; see edgetam_pl/io/resources.py."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for path in sorted(path for pattern in SHIPPED for path in Path().glob(pattern)):
            target = Path(self.build_lib, "edgetam_pl", path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


setup(cmdclass={"build_py": BuildWithFiles})
